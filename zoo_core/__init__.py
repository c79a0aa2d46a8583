"""zoo-eval: what quantization does to a model, on real data, with a record of the number.

Every command of ``zoo-eval`` is a function here. Each loads what it needs when it is called, so importing this package
loads neither torch nor AIMET.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo_core.version import __version__

if TYPE_CHECKING:
    from zoo_core.api import (
        check,
        compare,
        deploy,
        detect,
        doctor,
        evaluate,
        export,
        fetch,
        list_broken_plugins,
        list_models,
        list_runs,
        new_plugin,
        quantize,
        reproduce,
        rescore,
        resume,
        show,
        validate,
        verify,
        write_report,
    )
    from zoo_core.hookspecs import hookimpl

__all__ = [
    "__version__",
    "check",
    "compare",
    "deploy",
    "detect",
    "doctor",
    "evaluate",
    "export",
    "fetch",
    "hookimpl",
    "list_broken_plugins",
    "list_models",
    "list_runs",
    "new_plugin",
    "quantize",
    "reproduce",
    "rescore",
    "resume",
    "show",
    "validate",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name == "hookimpl":
        from zoo_core.hookspecs import hookimpl

        return hookimpl
    if name in __all__:
        from zoo_core import api

        return getattr(api, name)
    raise AttributeError(f"module 'zoo_core' has no attribute {name!r}")
