"""Checks what the plugin declares: registry entry and recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core import artifacts
from zoo_core.conformance.checks import Check
from zoo_core.conformance.outcomes import CheckFailedError
from zoo_core.datatypes import ANY_RECIPE
from zoo_core.evaluation.stages import all_stages
from zoo_core.quantization import pipeline
from zoo_core.recipes import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.conformance.subject import Subject
    from zoo_core.datatypes import Artifact, Reference


def check_plugin(subject: Subject) -> str:
    """The plugin that owns the model loads, and nothing of it had to be left out."""
    entry = subject.entry
    for broken in subject.host.broken:
        if broken.plugin_id == entry.plugin:
            raise CheckFailedError(
                broken.cause, fix="repair the plugin; `zoo-eval doctor --verbose` has the traceback."
            )
    return f"plugin {entry.plugin}"


def check_entry(subject: Subject) -> str:
    """Check splits, task, and the files inside packages with their hashes."""
    entry = subject.entry
    dataset = entry.dataset
    if dataset.split == dataset.calibration_split:
        raise CheckFailedError(
            f"{entry.source}: {entry.model_id}.dataset evaluates and calibrates on the same split {dataset.split!r}.",
            fix="name another split as calibration_split.",
        )
    inside = [artifact for artifact in _artifacts(subject) if artifact.url.startswith("package:")]
    for artifact in inside:
        artifacts.fetch(artifact, offline=True)
    carried = f", {len(inside)} files in the package verified" if inside else ""
    return f"{entry.source.name}: {subject.task.task_id} on {dataset.name}{carried}"


def _artifacts(subject: Subject) -> Sequence[Artifact]:
    entry = subject.entry
    weights = [found for found in (entry.checkpoint, entry.optimized_checkpoint) if found is not None]
    return [*weights, *entry.dataset.archives]


def check_recipe(subject: Subject) -> str:
    """The entry's recipe exists and every step and parameter is known."""
    plan = subject.plan
    return f"{plan.recipe.name} ({plan.tag}): {', '.join(bound.step.name for bound in plan.steps) or 'no steps'}"


def check_protocols(subject: Subject) -> str:
    """Headline and references name protocols that the metric has, and stages that their recipes have."""
    entry = subject.entry
    protocols = subject.metric().protocol_ids
    for place, protocol in [("headline", entry.headline), *(("references", ref.protocol) for ref in entry.references)]:
        if protocol not in protocols:
            raise CheckFailedError(
                f"{entry.source}: {entry.model_id}.{place} names the protocol {protocol!r}; the metric has "
                f"{', '.join(protocols)}.",
                fix="name one of the metric's protocols.",
            )
    for reference in entry.references:
        if reference.recipe != ANY_RECIPE:
            _check_stage(subject, reference)
    return f"{entry.headline} and {len(entry.references)} references"


def _check_stage(subject: Subject, reference: Reference) -> None:
    entry = subject.entry
    recipe = override(subject.host.recipe(entry, reference.recipe or entry.recipe), reference.settings)
    plan = pipeline.plan(recipe, subject.host.recipe_steps())
    steps = [bound.step.name for bound in plan.steps]
    names = sorted(stage.name for stage in all_stages(steps, plan.tag, optimized_checkpoint=False))
    if reference.stage not in names:
        raise CheckFailedError(
            f"{entry.source}: {entry.model_id}.references names the stage {reference.stage!r}; the recipe "
            f"{recipe.name!r} has {', '.join(names)}.",
            fix="name one of the recipe's stages, or the recipe that the value was obtained with.",
        )


CHECKS = (
    Check(name="the plugin loads", make=check_plugin),
    Check(name="the registry entry is valid", make=check_entry),
    Check(name="the recipe is valid", make=check_recipe),
    Check(name="headline and references name what exists", make=check_protocols),
)
