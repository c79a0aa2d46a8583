"""Selects the references that apply to a run: taken with its recipe, at the value for its library versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from zoo_core.datatypes import ANY_RECIPE, Reference
from zoo_core.errors import ZooError
from zoo_core.recipes import override

if TYPE_CHECKING:
    from zoo_core.datatypes import ModelEntry, ReferenceVariant
    from zoo_core.plugins import PluginHost
    from zoo_core.results.stored import StoredRun

_NO_RECIPE = "fp32"
"""The stage that exists before any step of a recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """A reference that applies to the run.

    Attributes:
        reference: With the value and tolerance that hold for the run's library versions.
        versions: Library versions for which that value was taken, as text; empty for the reference's own.
    """

    reference: Reference
    versions: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A reference that was taken under other conditions than the run's, and why it is not compared."""

    reference: Reference
    reason: str


class References:
    """Sorts a model's references by whether they apply to a run.

    Args:
        run: The run.
        entry: Its model.
        host: Gives the recipes that references name, whose content the run's is compared with.
    """

    def __init__(self, run: StoredRun, entry: ModelEntry, host: PluginHost) -> None:
        self._run = run
        self._entry = entry
        self._host = host
        self._versions = run.record.environment.packages
        self._known: dict[tuple[str, tuple[str, ...]], str | None] = {}

    def sort(self, references: Sequence[Reference]) -> tuple[list[Fitting], list[SetAside]]:
        """Return those that apply to the run, and the others with the reason, each in the order given."""
        fitting, aside = [], []
        for reference in references:
            other = self._other_recipe(reference)
            if other is None:
                fitting.append(self._fit(reference))
            else:
                aside.append(SetAside(reference=reference, reason=other))
        return fitting, aside

    def _other_recipe(self, reference: Reference) -> str | None:
        """Why the run's recipe is not the one that the reference was taken with; None where it is."""
        if reference.stage == _NO_RECIPE or reference.recipe == ANY_RECIPE:
            return None
        name = reference.recipe or self._entry.recipe
        taken = " ".join([name, *(f"--set {setting}" for setting in reference.settings)])
        recipe = self._run.record.recipe
        used = " ".join([recipe.name, *(f"--set {text}" for text in recipe.overrides)])
        expected = self._content(name, reference.settings)
        if expected is None:
            return f"taken with recipe {taken}, which cannot be read here; the run used {used}"
        if expected == recipe.sha256:
            return None
        content = ", of other content" if used == taken else ""
        return f"taken with recipe {taken}; the run used {used}{content}"

    def _content(self, name: str, settings: tuple[str, ...]) -> str | None:
        """SHA-256 of a recipe as used; None where there is no such recipe."""
        key = (name, settings)
        if key not in self._known:
            try:
                recipe = self._host.recipe(self._entry, name)
                self._known[key] = (override(recipe, settings) if settings else recipe).sha256
            except ZooError:
                self._known[key] = None
        return self._known[key]

    def _fit(self, reference: Reference) -> Fitting:
        for variant in reference.variants:
            if self._holds(variant):
                tolerance = reference.tolerance if variant.tolerance is None else variant.tolerance
                value = dataclasses.replace(
                    reference, value=variant.value, tolerance=tolerance, note=variant.note or reference.note
                )
                versions = ", ".join(f"{name} {wanted}" for name, wanted in variant.versions.items())
                return Fitting(reference=value, versions=versions)
        return Fitting(reference=reference, versions="")

    def _holds(self, variant: ReferenceVariant) -> bool:
        return all(
            name in self._versions and SpecifierSet(wanted).contains(self._versions[name], prereleases=True)
            for name, wanted in variant.versions.items()
        )
