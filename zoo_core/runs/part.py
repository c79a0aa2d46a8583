"""Base of the parts of a record, and the part that others contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


class Part:
    """Base of all parts: unknown fields and values of another type are errors, numbers are finite."""

    __slots__ = ()
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord(Part):
    """Sources of zoo-eval or of a plugin.

    ``sha256`` covers the names and contents of all files of the package; None if they cannot be read.
    """

    distribution: str | None
    version: str | None
    sha256: str | None

    def __str__(self) -> str:
        content = "unreadable sources" if self.sha256 is None else f"sources {self.sha256[:12]}"
        return content if self.version is None else f"{self.version} with {content}"
