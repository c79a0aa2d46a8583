"""Selects the references that apply to a run: taken under its conditions, at the value for its library versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from zoo_core.artifacts import sha256_of
from zoo_core.datatypes import ANY_NETWORK, ANY_RECIPE, Reference
from zoo_core.errors import ZooError
from zoo_core.recipes import config_path, override
from zoo_core.runs.request import DEFAULT_CALIBRATION_SIZE

if TYPE_CHECKING:
    from zoo_core.datatypes import ModelEntry, ReferenceVariant
    from zoo_core.plugins import PluginHost
    from zoo_core.results.stored import StoredRun
    from zoo_core.runs.parts import CalibrationRecord

FLOAT_STAGE = "fp32"
"""The stage that exists before any step of a recipe, and before any calibration."""

_OPTIMIZED = "optimized_"
"""Start of the names of stages whose network ``--optimized-checkpoint`` replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """A reference that applies to the run.

    Attributes:
        reference: With the value and tolerance that hold for the run's library versions.
        versions: Library versions for which that value was taken, as text; empty for the reference's own.
        notes: Conditions that the reference does not name or that differ without consequence, in sentences.
    """

    reference: Reference
    versions: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A reference that was taken under other conditions than the run's, and why it is not compared."""

    reference: Reference
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """SHA-256 of a recipe and of its AIMET configuration."""

    recipe: str
    config: str


class References:
    """Sorts a model's references by whether they apply to a run.

    Args:
        run: The run.
        entry: Its model.
        host: Gives the recipes that references name, whose content the run's is compared with.
    """

    def __init__(self, run: StoredRun, entry: ModelEntry, host: PluginHost) -> None:
        self._run = run
        self._record = run.record
        self._entry = entry
        self._host = host
        self._versions = run.record.environment.packages
        self._known: dict[tuple[str, tuple[str, ...]], _Content | None] = {}

    def sort(self, references: Sequence[Reference]) -> tuple[list[Fitting], list[SetAside]]:
        """Return those that apply to the run, and the others with the reason, each in the order given."""
        fitting, aside = [], []
        for reference in references:
            reasons = [reason for rule in self._rules if (reason := rule(reference)) is not None]
            if reasons:
                aside.append(SetAside(reference=reference, reason="; also ".join(reasons)))
            else:
                fitting.append(self._fit(reference))
        return fitting, aside

    @property
    def _rules(self) -> tuple[Callable[[Reference], str | None], ...]:
        """Rules that return why a reference does not apply, or None."""
        return self._other_classes, self._other_recipe, self._other_calibration, self._other_network

    def _other_classes(self, reference: Reference) -> str | None:
        missing = sorted({*reference.per_class} - {*self._record.dataset.class_names})
        return f"taken with classes that the run lacks: {', '.join(missing[:5])}" if missing else None

    def _other_recipe(self, reference: Reference) -> str | None:
        if reference.stage == FLOAT_STAGE or reference.recipe == ANY_RECIPE:
            return None
        name = reference.recipe or self._entry.recipe
        taken = " ".join([name, *(f"--set {setting}" for setting in reference.settings)])
        recipe = self._record.recipe
        used = " ".join([recipe.name, *(f"--set {text}" for text in recipe.overrides)])
        expected = self._content(name, reference.settings)
        if expected is None:
            return f"taken with recipe {taken}, which cannot be read here; the run used {used}"
        if expected.recipe != recipe.sha256:
            content = ", of other content" if used == taken else ""
            return f"taken with recipe {taken}; the run used {used}{content}"
        if expected.config != recipe.config_sha256:
            return f"taken with recipe {taken}; the run used {used}, with another AIMET configuration"
        return None

    def _content(self, name: str, settings: tuple[str, ...]) -> _Content | None:
        """Hashes of a recipe and its AIMET configuration as they are now; None if they cannot be read."""
        key = (name, settings)
        if key not in self._known:
            try:
                recipe = self._host.recipe(self._entry, name)
                recipe = override(recipe, settings) if settings else recipe
                config = config_path(recipe.source, str(recipe.steps[-1].params.get("config_file")))
                self._known[key] = _Content(recipe=recipe.sha256, config=sha256_of(config))
            except ZooError:
                self._known[key] = None
        return self._known[key]

    def _other_calibration(self, reference: Reference) -> str | None:
        used, split = self._record.calibration, self._entry.dataset.calibration_split
        if reference.stage == FLOAT_STAGE or (used is None and not self._is_measured(reference.stage)):
            return None
        if used is None:
            return "taken with calibration images; the run recorded none"
        if used.split != split:
            return f"calibrated on split {split!r}; the run on {used.split!r}"
        required = _required(reference, used)
        if used.num_images >= required:
            return None
        if reference.num_calibration_images is None:
            return (
                f"which does not name its number of calibration images, so {required} are required (the default of "
                f"{DEFAULT_CALIBRATION_SIZE}, or the whole split); the run used {used.num_images}"
            )
        return f"calibrated on {required} images; the run on {used.num_images}"

    def _is_measured(self, stage: str) -> bool:
        return self._run.metrics is not None and stage in self._run.metrics.stages

    def _other_network(self, reference: Reference) -> str | None:
        if not reference.stage.startswith(_OPTIMIZED) or reference.optimized_checkpoint == ANY_NETWORK:
            return None
        loaded = self._record.optimized_checkpoint
        used = None if loaded is None else loaded.sha256
        if used == reference.optimized_checkpoint:
            return None
        taken, ran = _origin(reference.optimized_checkpoint), _origin(used)
        return f"taken with an optimized network that was {taken}; the run's was {ran}"

    def _fit(self, reference: Reference) -> Fitting:
        notes = self._notes(reference)
        for variant in reference.variants:
            if self._holds(variant):
                tolerance = reference.tolerance if variant.tolerance is None else variant.tolerance
                value = dataclasses.replace(
                    reference, value=variant.value, tolerance=tolerance, note=variant.note or reference.note
                )
                versions = ", ".join(f"{name} {wanted}" for name, wanted in variant.versions.items())
                return Fitting(reference=value, versions=versions, notes=notes)
        return Fitting(reference=reference, versions="", notes=notes)

    def _notes(self, reference: Reference) -> tuple[str, ...]:
        used = self._record.calibration
        if used is None or reference.stage == FLOAT_STAGE:
            return ()
        required = _required(reference, used)
        if reference.num_calibration_images is None and required < DEFAULT_CALIBRATION_SIZE:
            return (
                f"The reference of {reference.value_name} does not name its number of calibration images; the run used "
                f"{used.num_images}, the whole split.",
            )
        if used.num_images > required:
            return (
                f"The run calibrated on {used.num_images} images; the reference of {reference.value_name} requires "
                f"{required}.",
            )
        return ()

    def _holds(self, variant: ReferenceVariant) -> bool:
        return all(
            name in self._versions and SpecifierSet(wanted).contains(self._versions[name], prereleases=True)
            for name, wanted in variant.versions.items()
        )


def _required(reference: Reference, used: CalibrationRecord) -> int:
    """Return the smallest number of calibration images with which a reference applies."""
    return reference.num_calibration_images or min(DEFAULT_CALIBRATION_SIZE, used.num_available)


def _origin(sha256: str | None) -> str:
    return "made by the recipe" if sha256 is None else f"loaded (SHA-256 {sha256[:12]})"
