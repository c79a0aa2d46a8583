"""Checks an installation: plugins, libraries, devices, cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core import artifacts
from zoo_core.datatypes import RECORDED_PACKAGES
from zoo_core.errors import PluginError
from zoo_core.runs.provenance import installed_version

if TYPE_CHECKING:
    from zoo_core.plugins import PluginHost


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationCheck:
    """One part of the installation.

    Attributes:
        name: The plugin, library or place.
        ok: It can be used.
        message: Version, models or place; the cause where it cannot be used.
        details: The traceback of a plugin that cannot be used.
    """

    name: str
    ok: bool
    message: str
    details: str = ""


def check_installation(host: PluginHost) -> Sequence[InstallationCheck]:
    """Check every plugin, library, the devices and the cache."""
    return [*_plugins(host), *_runtimes(host), *_libraries(), _cache()]


def _plugins(host: PluginHost) -> Iterator[InstallationCheck]:
    broken = {plugin.plugin_id: plugin for plugin in host.broken}
    catalog = host.catalog()
    for plugin_id in host.plugin_ids:
        name = f"plugin {plugin_id}"
        if plugin_id in broken:
            cause = broken[plugin_id]
            yield InstallationCheck(name=name, ok=False, message=cause.cause, details=cause.details)
        else:
            models = sorted(name for name, entry in catalog.items() if entry.plugin == plugin_id)
            yield InstallationCheck(name=name, ok=True, message=f"models {', '.join(models) or 'none'}")


def _runtimes(host: PluginHost) -> Iterator[InstallationCheck]:
    """List the runtimes; one that is not installed is no fault of the installation."""
    try:
        known = host.runtimes()
    except PluginError as error:
        yield InstallationCheck(name="runtimes", ok=False, message=error.fact)
        return
    for name, owned in known.items():
        try:
            found = owned.availability()
        except PluginError as error:
            yield InstallationCheck(name=f"runtime {name}", ok=False, message=error.fact)
            continue
        message = str(found.version) if found.reason is None else f"not here: {found.reason} To use it: {found.fix}"
        yield InstallationCheck(name=f"runtime {name}", ok=True, message=message)


def _libraries() -> Iterator[InstallationCheck]:
    for package in RECORDED_PACKAGES:
        version = installed_version(package)
        if version is not None:
            yield InstallationCheck(name=package, ok=True, message=version)
    try:
        import torch
        import torchvision
    except Exception as error:
        fix = "install matching builds, e.g. torch 2.15.0 with torchvision 0.29.2"
        yield InstallationCheck(name="torch and torchvision", ok=False, message=f"do not load: {error}; {fix}")
        return
    loaded = f"torch {torch.__version__} and torchvision {torchvision.__version__} load together"
    yield InstallationCheck(name="torch and torchvision", ok=True, message=loaded)
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield InstallationCheck(name="devices", ok=True, message=", ".join(["cpu", *devices]))


def _cache() -> InstallationCheck:
    folder = artifacts.cache_dir()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 1e9
    writable = os.access(existing, os.W_OK)
    message = f"{folder}, {free:.0f} GB free" + ("" if writable else ", not writable")
    return InstallationCheck(name="cache", ok=writable, message=message)
