"""Arguments as callers may write them, turned into those of the work functions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core import plugins
from zoo_core.errors import DataError, RunError
from zoo_core.evaluation.request import SilentReporter

if TYPE_CHECKING:
    from zoo_core.evaluation.request import Reporter


def the_host(host: plugins.PluginHost | None) -> plugins.PluginHost:
    """Return the plugins given, or the installed ones."""
    return host or plugins.PluginHost()


def the_reporter(reporter: Reporter | None) -> Reporter:
    """Return the reporter given, or a silent one."""
    return reporter or SilentReporter()


def optional_path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value)


def texts(value: Sequence[str]) -> tuple[str, ...]:
    """A tuple of texts; one text is a tuple of one, not of its letters."""
    return (value,) if isinstance(value, str) else tuple(value)


def names(value: Sequence[str]) -> tuple[str, ...]:
    """Names from a list or from comma-separated text, each once."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(name.strip() for name in parts if name.strip()))


def refuse_missing(source: Path | str) -> None:
    """Refuse a path that does not exist, which would be taken for the name of a model.

    Raises:
        RunError: There is nothing at this path.
    """
    if "/" in str(source) and not Path(source).exists():
        raise RunError(f"{source} does not exist.", fix="name a run directory, or a model that `zoo-eval list` shows.")


def fraction(name: str, value: float) -> float:
    """Return the value.

    Raises:
        DataError: It is not in ``[0, 1]``, or not a number.
    """
    if not 0 <= value <= 1:
        raise DataError(f"{name} is {value}.", fix="give a number from 0 to 1.")
    return value


def joined(stages: Sequence[str] | None) -> str | None:
    return stages if stages is None or isinstance(stages, str) else ",".join(stages)


def renamed(runtime: str, backend: str | None) -> str:
    """The runtime of float stages, which was called ``backend`` before."""
    if backend is None:
        return runtime
    warnings.warn("backend is deprecated; use runtime", DeprecationWarning, stacklevel=3)
    return backend
