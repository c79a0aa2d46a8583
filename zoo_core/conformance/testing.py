"""The checks as a pytest class, for the tests of a plugin."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import pytest

from zoo_core.conformance.checks import Check
from zoo_core.conformance.running import CHECKS, run_check
from zoo_core.conformance.subject import Subject
from zoo_core.plugins import PluginHost


class ConformanceWarning(UserWarning):
    """A check that gave a warning."""


class ModelConformance:
    """Subclass it, name a model, and pytest makes every check of ``zoo-eval validate`` as a test of its own.

    Attributes:
        model: Registry name.
        plugins: Plugins that are not installed, by plugin id: modules or objects with hooks.
        checks: Which checks to make; all of them unless a class narrows them.
    """

    model: ClassVar[str]
    plugins: ClassVar[Mapping[str, object]] = {}
    checks: ClassVar[Sequence[Check]] = CHECKS

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls) -> Iterator[Subject]:
        """The model, whose parts all tests of the class share."""
        host = PluginHost()
        for plugin_id, plugin in cls.plugins.items():
            host.register(plugin, plugin_id)
        with Subject(host, cls.model) as subject:
            yield subject

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        """One test a check."""
        if "check" in metafunc.fixturenames:
            metafunc.parametrize("check", cls.checks, ids=[check.name for check in cls.checks])

    def test_conforms(self, check: Check, subject: Subject) -> None:
        """A failed check fails with what was seen; one that cannot be made is skipped with the reason."""
        outcome = run_check(check, subject)
        if outcome.status in ("not checked", "not applicable"):
            pytest.skip(f"{outcome.status}: {outcome.found}")
        if outcome.status == "warning":
            warnings.warn(f"{outcome.found} {outcome.fix}", ConformanceWarning, stacklevel=1)
        if outcome.status == "failed":
            pytest.fail(f"{outcome.found}\n  fix: {outcome.fix}\n\n{outcome.details}", pytrace=False)
