"""The outcome of a check, and the errors that decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from zoo_core.errors import PluginError

Status: TypeAlias = Literal["passed", "warning", "failed", "not checked", "not applicable"]


class CheckFailedError(PluginError):
    """The plugin fails the check."""


class CheckWarningError(PluginError):
    """The check saw what a user must know, but what a plugin may do."""


class NotCheckedError(Exception):
    """The check cannot be made; says why. Nothing is known then, so it never counts as passed."""


class NotApplicableError(NotCheckedError):
    """The check says nothing about this kind of model, such as one of boxes about a classifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of a check.

    Attributes:
        name: The check's.
        status: ``warning`` for what a user of the model must know although it is not a fault; ``not checked`` where the
            plugin gives no means to, ``not applicable`` where there is nothing to check.
        found: What was seen, or why nothing was.
        fix: What to do about a failure; empty otherwise.
        seconds: Wall time.
        details: The traceback of a failure.
    """

    name: str
    status: Status
    found: str
    fix: str = ""
    seconds: float = 0.0
    details: str = ""
