"""Checks of a plugin, for ``zoo-eval validate`` and as a test class for the plugin's own tests.

```python
from zoo_core.conformance import ModelConformance


class TestMyModel(ModelConformance):
    model = "my_model"
```

The checks run on a CPU with a few drawn pictures and without a download; ``zoo_conformance`` in ``docs/hooks.md`` says
what a plugin gives for them. Where it gives nothing, a check is reported as not checked: pytest shows it as skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["CHECKS", "Check", "ModelConformance", "Outcome", "Subject", "run_checks"]

if TYPE_CHECKING:
    from zoo_core.conformance.checks import Check
    from zoo_core.conformance.outcomes import Outcome
    from zoo_core.conformance.running import CHECKS, run_checks
    from zoo_core.conformance.subject import Subject
    from zoo_core.conformance.testing import ModelConformance


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: the command line needs no pytest."""
    import importlib

    modules = {
        "Check": "checks",
        "Outcome": "outcomes",
        "Subject": "subject",
        "ModelConformance": "testing",
        "CHECKS": "running",
        "run_checks": "running",
    }
    if name not in modules:
        raise AttributeError(f"module 'zoo_core.conformance' has no attribute {name!r}")
    return getattr(importlib.import_module(f"zoo_core.conformance.{modules[name]}"), name)
