"""A check of a model: a name and a function of the subject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo_core.conformance.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check.

    Attributes:
        name: What holds when it passes, e.g. ``the network is in eval mode``.
        make: Returns what was seen, in one line; raises ``CheckFailedError`` or ``NotCheckedError``. Whatever else it
            raises comes from the plugin and fails the check too.
    """

    name: str
    make: Callable[[Subject], str]
