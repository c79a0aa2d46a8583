"""Functions about models and plugins: list, show, fetch, validate and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.api.arguments import the_host, the_reporter

if TYPE_CHECKING:
    from zoo_core.conformance.doctor import InstallationCheck
    from zoo_core.conformance.validate import Kind, Validation
    from zoo_core.datatypes import ModelEntry
    from zoo_core.evaluation.request import Reporter
    from zoo_core.plugins import BrokenPlugin, PluginHost
    from zoo_core.scaffold import Task


def list_models(*, host: PluginHost | None = None) -> Sequence[ModelEntry]:
    """Return every model of the catalogue, by name."""
    catalog = the_host(host).catalog()
    return [catalog[name] for name in sorted(catalog)]


def list_broken_plugins(*, host: PluginHost | None = None) -> Sequence[BrokenPlugin]:
    """Return the plugins that cannot be used, each with the cause."""
    return the_host(host).broken


def show(model: str, *, host: PluginHost | None = None) -> ModelEntry:
    """Return the entry of one model.

    Raises:
        RegistryError: No such model; the closest name is suggested.
    """
    return the_host(host).model(model)


def fetch(model: str, *, offline: bool = False, host: PluginHost | None = None) -> Sequence[Path]:
    """Download a model's checkpoints and dataset into the cache, verify them, and return where they are.

    Args:
        model: Registry name, or the name of a plugin that owns one model.
        offline: Download nothing; only report what is in the cache.
        host: Plugins to use.

    Raises:
        ArtifactError: A download failed, or does not have the declared hash.
    """
    from zoo_core import artifacts
    from zoo_core.evaluation.prepare import fetch_dataset

    entry = show(model, host=host)
    weights = [artifact for artifact in (entry.checkpoint, entry.optimized_checkpoint) if artifact is not None]
    places = [artifacts.fetch(artifact, offline=offline) for artifact in weights]
    if entry.dataset.archives:
        places.append(fetch_dataset(entry, offline=offline))
    return places


def new_plugin(
    name: str, *, task: Task = "detection", out: Path | str = ".", host: PluginHost | None = None
) -> Sequence[Path]:
    """Write a plugin as a working package of its own, and return its files.

    Args:
        name: Name of the package, the plugin and its model.
        task: Task of the model.
        out: Folder in which the package's folder is made.
        host: Plugins whose names are taken.

    Raises:
        PluginError: The name cannot be used, the folder exists, or it cannot be written.
    """
    from zoo_core.scaffold import new_plugin as work

    return work(name, task, Path(out), the_host(host))


def validate(
    name: str, *, kind: Kind | None = None, host: PluginHost | None = None, reporter: Reporter | None = None
) -> Validation:
    """Check a plugin, or one of its models, on drawn pictures: on the CPU, without a download.

    Args:
        name: A plugin or a model.
        kind: ``model`` or ``plugin`` where the name could be both; None for all models of such a plugin.
        host: Plugins to use.
        reporter: Receives progress.

    Raises:
        PluginError: The plugin cannot be used; says why.
        RegistryError: No such plugin or model; the closest name is suggested.
    """
    from zoo_core.conformance.validate import validate as work

    return work(name, kind, the_host(host), the_reporter(reporter))


def doctor(*, host: PluginHost | None = None) -> Sequence[InstallationCheck]:
    """Check plugins, libraries, devices and the cache."""
    from zoo_core.conformance.doctor import check_installation

    return check_installation(the_host(host))
