"""Checks the installed libraries for known vulnerabilities, and reports if the service could not be reached.

pip-audit exits with 0 and "No known vulnerabilities found" also when the service knew none of the packages, as behind a
mirror that answers 404 to all of them. This tool does not accept that: every package must have been looked up, and an
old version with a published vulnerability, added to the query, must have been recognized.

    python tools/audit.py .tox/py311-torch215/lib/python3.11/site-packages

Exits with 0 when everything was looked up and nothing is known, 1 when a vulnerability is known, 3 when the audit was
not possible.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

CANARY = ("jinja2", "2.10")
"""Has had published vulnerabilities since 2019; a service that knows none for it answers nothing."""

OWN = "zoo-eval"
PASSED, VULNERABLE, NOT_AUDITED = 0, 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Result of an audit: an exit code and a message."""

    code: int
    message: str


def installed(site_packages: Path) -> dict[str, str]:
    """Return name and version of every distribution in a folder except this project, without local parts (``+cpu``)."""
    found = {
        (dist.metadata["Name"] or "").lower(): dist.version.partition("+")[0]
        for dist in distributions(path=[str(site_packages)])
    }
    return {name: version for name, version in sorted(found.items()) if name and name != OWN}


def verdict(packages: Mapping[str, str], report: Any, canary: Any) -> Answer:
    """Judge pip-audit's report.

    Args:
        packages: Version by name, as queried.
        report: pip-audit's JSON on them; None if there is none.
        canary: Its JSON on ``CANARY``; likewise.
    """
    if not packages:
        return Answer(code=NOT_AUDITED, message="NOT AUDITED: no package is installed there.")
    answers, known = _answers(report), _answers(canary)
    vulnerable = {name: ids for name, ids in answers.items() if ids}
    if vulnerable:
        lines = [f"  {name} {packages.get(name, '')}: {', '.join(ids)}" for name, ids in sorted(vulnerable.items())]
        return Answer(code=VULNERABLE, message="\n".join(["VULNERABLE: upgrade, or raise the lower bound:", *lines]))
    if not any(known.values()):
        name, version = CANARY
        message = f"NOT AUDITED: the vulnerability service did not answer, or knows nothing even of {name} {version}."
        return Answer(code=NOT_AUDITED, message=message)
    silent = sorted(set(packages) - set(answers))
    if silent:
        message = f"NOT AUDITED: {len(silent)} of {len(packages)} packages were not looked up: {', '.join(silent[:8])}"
        return Answer(code=NOT_AUDITED, message=message + (", ..." if len(silent) > 8 else "."))
    return Answer(code=PASSED, message=f"AUDITED: {len(packages)} packages, no known vulnerability.")


def _answers(report: Any) -> dict[str, list[str]]:
    """Return vulnerability ids by package; skipped packages are left out."""
    entries = report.get("dependencies", []) if isinstance(report, dict) else []
    return {
        entry["name"].lower().replace("_", "-"): [found["id"] for found in entry["vulns"]]
        for entry in entries
        if "vulns" in entry
    }


def ask(packages: Mapping[str, str]) -> Any:
    """Return pip-audit's JSON report on exact versions; None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "requirements.txt"
        listing.write_text("".join(f"{name}=={version}\n" for name, version in packages.items()), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(listing), "--no-deps", "--disable-pip"]
        done = subprocess.run(  # noqa: S603 - no shell, fixed program
            [*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True, check=False
        )
    try:
        return json.loads(done.stdout)
    except ValueError:
        sys.stderr.write(done.stderr[-2000:])
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit the packages in a folder and print the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("site_packages", type=Path)
    packages = installed(parser.parse_args(arguments).site_packages)
    name, version = CANARY
    answer = verdict(packages, ask(packages) if packages else None, ask({name: version}))
    sys.stdout.write(f"{answer.message}\n")
    return answer.code


if __name__ == "__main__":
    sys.exit(main())
