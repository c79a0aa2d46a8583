"""``zoo-eval show``."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from zoo_core import api
from zoo_core.cli.options import OUTPUT, REGISTRY, options
from zoo_core.display import percent

if TYPE_CHECKING:
    from zoo_core.datatypes import Artifact, ModelEntry, Reference
    from zoo_core.plugins import PluginHost


@click.command()
@click.argument("model")
@options(REGISTRY, *OUTPUT)
def show(*, model: str, host: PluginHost | None, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """Show one model: weights, dataset, recipe, published references."""
    entry = api.show(model, host=host)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(entry), default=str))
        return 0
    click.echo(f"{entry.model_id}: {entry.description}")
    for name, value in _facts(entry):
        click.echo(f"  {name:<22}{value}")
    if entry.references:
        images = f" on {entry.dataset.num_images} images" if entry.dataset.num_images is not None else ""
        click.echo(f"  references{images}, in percent:")
    for reference in entry.references:
        note = f"; {reference.note}" if reference.note else ""
        click.echo(
            f"    {reference.stage} {reference.protocol} {reference.key} {percent(reference.value)} "
            f"(tolerance {percent(reference.tolerance)}{_conditions(reference)}): {reference.source}{note}"
        )
        for variant in reference.variants:
            versions = ", ".join(f"{name} {wanted}" for name, wanted in variant.versions.items())
            tolerance = reference.tolerance if variant.tolerance is None else variant.tolerance
            click.echo(f"      {versions}: {percent(variant.value)} (tolerance {percent(tolerance)})")
    return 0


def _conditions(reference: Reference) -> str:
    """Conditions of a reference that are not the model's own."""
    settings = "".join(f" --set {setting}" for setting in reference.settings)
    recipe = f" recipe {reference.recipe}" if reference.recipe else ""
    facts = [f"{recipe}{settings}"] if recipe or settings else []
    if reference.num_calibration_images is not None:
        facts.append(f" {reference.num_calibration_images} calibration images")
    if reference.optimized_checkpoint is not None:
        facts.append(f" optimized checkpoint {reference.optimized_checkpoint[:12]}")
    return "".join(f";{fact}" for fact in facts)


def _facts(entry: ModelEntry) -> list[tuple[str, str]]:
    dataset = entry.dataset
    facts = [
        ("plugin", entry.plugin),
        ("task", entry.task),
        ("dataset", f"{dataset.name}, split {dataset.split}, calibration from {dataset.calibration_split}"),
        *(("archive", _artifact(archive)) for archive in dataset.archives),
        ("recipe", entry.recipe),
        ("headline", entry.headline),
    ]
    if entry.checkpoint is not None:
        facts.append(("checkpoint", _artifact(entry.checkpoint)))
    if entry.optimized_checkpoint is not None:
        facts.append(("optimized checkpoint", _artifact(entry.optimized_checkpoint)))
    return facts


def _artifact(artifact: Artifact) -> str:
    checksum = (artifact.sha256 and f"SHA-256 {artifact.sha256}") or (artifact.md5 and f"MD5 {artifact.md5}")
    return f"{artifact.url} ({checksum or 'no published checksum: the first download records it'})"
