"""The audit of the libraries: what was not looked up is no pass."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tools import audit

PACKAGES = {"numpy": "2.0.0", "typing-extensions": "4.12.0"}
KNOWN = {"dependencies": [{"name": "jinja2", "version": "2.10", "vulns": [{"id": "PYSEC-2019-217"}]}]}


def report(**vulns: list[str] | None) -> dict[str, Any]:
    """What pip-audit prints; None for a package that it skipped."""
    return {
        "dependencies": [
            {"name": name, "skip_reason": "Dependency not found on PyPI"}
            if ids is None
            else {"name": name, "version": "1", "vulns": [{"id": found} for found in ids]}
            for name, ids in vulns.items()
        ]
    }


def test_only_an_audit_that_looked_up_every_package_passes() -> None:
    found = audit.verdict(PACKAGES, report(numpy=[], typing_extensions=[]), KNOWN)
    assert found == audit.Answer(code=0, message="AUDITED: 2 packages, no known vulnerability.")


@pytest.mark.parametrize(
    ("packages", "answer", "canary", "words"),
    [
        (PACKAGES, None, None, "did not answer"),
        (PACKAGES, report(numpy=None, typing_extensions=None), report(jinja2=None), "did not answer"),
        (PACKAGES, report(numpy=[], typing_extensions=[]), report(jinja2=[]), "knows nothing even of jinja2 2.10"),
        (PACKAGES, report(numpy=[], typing_extensions=None), KNOWN, "1 of 2 packages were not looked up: typing-ext"),
        ({}, None, KNOWN, "no package is installed"),
    ],
    ids=["no answer", "a mirror without the service", "a mirror that knows nothing", "one skipped", "nothing there"],
)
def test_what_was_not_looked_up_is_no_pass(packages: dict[str, str], answer: Any, canary: Any, words: str) -> None:
    found = audit.verdict(packages, answer, canary)
    assert found.code == 3
    assert found.message.startswith("NOT AUDITED")
    assert words in found.message


def test_a_known_vulnerability_fails_even_where_the_audit_is_incomplete() -> None:
    found = audit.verdict(PACKAGES, report(numpy=["CVE-1", "CVE-2"], typing_extensions=None), None)
    assert found.code == 1
    assert "numpy 2.0.0: CVE-1, CVE-2" in found.message


def test_the_packages_of_a_folder_are_found_but_for_this_project(tmp_path: Path) -> None:
    for name, version in (("Torch", "2.8.0+cpu"), ("zoo-eval", "0.1.0")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    assert audit.installed(tmp_path) == {"torch": "2.8.0"}


def test_without_pip_audit_nothing_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    folder = tmp_path / "numpy-2.0.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.0.0\n")
    assert audit.main([str(tmp_path)]) == 3
    assert capsys.readouterr().out.startswith("NOT AUDITED")
