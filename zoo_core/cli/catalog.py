"""``zoo-eval list``, ``show``, ``fetch`` and ``doctor``."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from zoo_core.datatypes import Artifact, ModelEntry, Reference
    from zoo_core.plugins import PluginHost

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
_VERBOSE = click.option("--verbose", is_flag=True, help="Show tracebacks.")


@click.command("list")
@_JSON
@click.option("--broken", is_flag=True, help="List the plugins that cannot be used, with the cause.")
def list_models(*, as_json: bool, broken: bool) -> int:
    """List the models of the catalogue."""
    from zoo_core import api
    from zoo_core.plugins import PluginHost

    host = PluginHost()
    if broken:
        _print_broken(host, as_json=as_json)
        return 0
    models = api.list_models(host)
    if as_json:
        rows = [{"model": entry.model_id, "plugin": entry.plugin, "task": entry.task} for entry in models]
        click.echo(json.dumps({"models": rows}))
        return 0
    width = max((len(entry.model_id) for entry in models), default=0)
    for entry in models:
        click.echo(f"{entry.model_id:<{width}}  {entry.task}, {entry.dataset.name}: {entry.description}")
    if host.broken:
        click.echo(f"{len(host.broken)} plugins cannot be used; `zoo-eval doctor` says why.", err=True)
    return 0


def _print_broken(host: PluginHost, *, as_json: bool) -> None:
    if as_json:
        click.echo(
            json.dumps({"broken": [{"plugin": plugin.plugin_id, "cause": plugin.cause} for plugin in host.broken]})
        )
        return
    for plugin in host.broken:
        click.echo(f"{plugin.plugin_id}: {plugin.cause}")
    if not host.broken:
        click.echo("every plugin can be used")


@click.command()
@click.argument("model")
@_JSON
@_VERBOSE
def show(*, model: str, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """Show one model: weights, dataset, recipe, published references."""
    from zoo_core import api

    entry = api.show(model)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(entry), default=str))
        return 0
    click.echo(f"{entry.model_id}: {entry.description}")
    for name, value in _facts(entry):
        click.echo(f"  {name:<22}{value}")
    if entry.references:
        click.echo("  references, in percent:")
    for reference in entry.references:
        note = f"; {reference.note}" if reference.note else ""
        click.echo(
            f"    {reference.value_name} {100 * reference.value:.2f} "
            f"(tolerance {100 * reference.tolerance:.2f}{_conditions(reference)}): {reference.source}{note}"
        )
        for variant in reference.variants:
            versions = ", ".join(f"{name} {wanted}" for name, wanted in variant.versions.items())
            tolerance = reference.tolerance if variant.tolerance is None else variant.tolerance
            click.echo(f"      {versions}: {100 * variant.value:.2f} (tolerance {100 * tolerance:.2f})")
    return 0


def _conditions(reference: Reference) -> str:
    """The recipe that a reference was taken with, where it is not the model's own."""
    settings = "".join(f" --set {setting}" for setting in reference.settings)
    recipe = f" recipe {reference.recipe}" if reference.recipe else ""
    return f";{recipe}{settings}" if recipe or settings else ""


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


@click.command()
@click.argument("model")
@click.option("--offline", is_flag=True, help="Only say what is in the cache.")
@_JSON
@_VERBOSE
def fetch(*, model: str, offline: bool, as_json: bool, verbose: bool) -> int:  # noqa: ARG001 - main() reads --verbose
    """Download MODEL's weights and dataset into the cache, and check them."""
    from zoo_core import api

    places = api.fetch(model, offline=offline)
    if as_json:
        click.echo(json.dumps({"places": [str(place) for place in places]}))
        return 0
    for place in places:
        click.echo(str(place))
    if not places:
        click.echo(f"The registry knows no download for {model!r}: bring its weights and data.", err=True)
    return 0


@click.command()
@_JSON
@_VERBOSE
def doctor(*, as_json: bool, verbose: bool) -> int:
    """Check plugins, registry, libraries and devices; exits with 2 when something cannot be used."""
    from zoo_core.plugins import PluginHost

    host = PluginHost()
    findings = [*_check_plugins(host), *_check_libraries(), _check_cache()]
    if as_json:
        click.echo(json.dumps({"checks": findings}))
    else:
        for finding in findings:
            click.echo(f"{'ok   ' if finding['ok'] else 'FAIL '} {finding['what']}: {finding['found']}")
            if verbose and finding.get("details"):
                click.echo(finding["details"])
    return 0 if all(finding["ok"] for finding in findings) else 2


def _check_plugins(host: PluginHost) -> list[dict[str, Any]]:
    broken = {plugin.plugin_id: plugin for plugin in host.broken}
    catalog = host.catalog()
    findings = []
    for plugin_id in host.plugin_ids:
        models = sorted(name for name, entry in catalog.items() if entry.plugin == plugin_id)
        found = broken[plugin_id].cause if plugin_id in broken else f"models {', '.join(models) or 'none'}"
        details = broken[plugin_id].details if plugin_id in broken else ""
        findings.append(
            {"what": f"plugin {plugin_id}", "ok": plugin_id not in broken, "found": found, "details": details}
        )
    return findings


def _check_libraries() -> list[dict[str, Any]]:
    from zoo_core.datatypes import RECORDED_PACKAGES
    from zoo_core.provenance import installed_version

    findings = [
        {"what": name, "ok": True, "found": found}
        for name in RECORDED_PACKAGES
        if (found := installed_version(name)) is not None
    ]
    try:
        import torch
        import torchvision
    except Exception as error:
        fix = "install matching builds, e.g. torch 2.15.0 with torchvision 0.29.2"
        return [*findings, {"what": "torch and torchvision", "ok": False, "found": f"do not load: {error}; {fix}"}]
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    loaded = f"torch {torch.__version__} and torchvision {torchvision.__version__} load together"
    findings.append({"what": "torch and torchvision", "ok": True, "found": loaded})
    findings.append({"what": "devices", "ok": True, "found": ", ".join(["cpu", *devices])})
    return findings


def _check_cache() -> dict[str, Any]:
    import os
    import shutil

    from zoo_core import artifacts

    folder = artifacts.cache_dir()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 1e9
    writable = os.access(existing, os.W_OK)
    found = f"{folder}, {free:.0f} GB free" + ("" if writable else ", not writable")
    return {"what": "cache", "ok": writable, "found": found}
