"""The tests that may be skipped in continuous integration: ``allowed_skips.txt``, read with the standard library alone.

``python tests/skips.py LOG...`` prints the entries that no session of these logs used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

ALLOWED = "allowed_skips.txt"
USED = "ALLOWED SKIP: "
"""Begins a line of a session's summary for every entry that it used."""


@dataclass(frozen=True, slots=True)
class AllowedSkip:
    """One line of the list; all three are patterns as of ``fnmatch``.

    Attributes:
        tests: Ids of tests, or of modules that are skipped as a whole.
        reason: The reason that the skip gives.
        environments: Names of tox environments.
    """

    tests: str
    reason: str
    environments: tuple[str, ...]

    def allows(self, test: str, reason: str, environment: str) -> bool:
        """Tell whether a test may be skipped for this reason in this environment."""
        return (
            fnmatchcase(test, self.tests)
            and fnmatchcase(reason, self.reason)
            and any(fnmatchcase(environment, pattern) for pattern in self.environments)
        )

    def __str__(self) -> str:
        return f"{self.tests} | {self.reason}"


def read_allowed(listing: Path) -> list[AllowedSkip]:
    """Read ``tests | reason | environment, ...`` from each line; empty lines and ``#`` are comments."""
    lines = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines()]
    found = []
    for line in lines:
        if line and not line.startswith("#"):
            tests, reason, environments = line.split(" | ")
            found.append(AllowedSkip(tests, reason, tuple(environments.split(", "))))
    return found


def environment() -> str:
    """Return the name of the tox environment, or ``no tox``."""
    return os.environ.get("TOX_ENV_NAME", "no tox")


def unused(allowed: Iterable[AllowedSkip], logs: Iterable[str]) -> list[AllowedSkip]:
    """Return the entries that no log says were used."""
    used = {line.strip() for log in logs for line in log.splitlines() if line.startswith(USED)}
    return [entry for entry in allowed if f"{USED}{entry}" not in used]


def main(logs: list[str]) -> None:
    """Print each unused entry."""
    texts = [Path(log).read_text(encoding="utf-8", errors="replace") for log in logs]
    for entry in unused(read_allowed(Path(__file__).with_name(ALLOWED)), texts):
        sys.stdout.write(f"UNUSED in tests/{ALLOWED}: {entry}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
