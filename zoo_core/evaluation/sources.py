"""Records the program behind a run: zoo-eval, the plugins that take part in it, and the model's registry entry."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.plugins import CORE
from zoo_core.runs.part import SourceRecord
from zoo_core.runs.sources import source_record
from zoo_core.version import __version__

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from zoo_core.datatypes import ModelEntry
    from zoo_core.plugins import OwnedRuntime, PluginHost
    from zoo_core.quantization.pipeline import Plan

ZOO_EVAL = "zoo-eval"
"""Name of zoo-eval itself among the sources of a run."""
REGISTRY_ENTRY = "registry entry"
"""Name of the model's registry entry among them; it may come from a file that belongs to no package."""

_REGISTRY = ("zoo_core/registry.yaml",)
"""Only an installed wheel has it inside the package; REGISTRY_ENTRY covers the model's part of it."""

_WITHOUT_EFFECT = ("description", "references", "checkpoint", "optimized_checkpoint", "source")
"""Fields of an entry that change no prediction, or whose content has a hash of its own in the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Program of a run.

    Attributes:
        sources: By plugin id, with ZOO_EVAL and REGISTRY_ENTRY.
        packages: Distributions that the plugins require; their versions belong to the record as well.
    """

    sources: Mapping[str, SourceRecord]
    packages: frozenset[str]


def program_of(host: PluginHost, entry: ModelEntry, plan: Plan) -> Program:
    """Return the program of a run: zoo-eval, the model's owner, and the plugins that give its task and its steps."""
    names = host.taking_part(entry, {bound.step.name for bound in plan.steps})
    packages = [_required(distribution) for name in names if (distribution := host.distribution(name)) is not None]
    return Program(sources=sources_here(host, names, entry), packages=frozenset().union(*packages))


def sources_here(host: PluginHost, names: Iterable[str], entry: ModelEntry | None) -> dict[str, SourceRecord]:
    """Return the sources that are installed now.

    Args:
        host: The plugins.
        names: Of plugins; ZOO_EVAL and REGISTRY_ENTRY are allowed. A plugin that is not installed is left out.
        entry: Of the model; None leaves REGISTRY_ENTRY out.
    """
    records = {ZOO_EVAL: source_record(["zoo_core.plugins"], ZOO_EVAL, __version__, without=_REGISTRY)}
    if entry is not None:
        records[REGISTRY_ENTRY] = SourceRecord(distribution=None, version=None, sha256=_entry_sha256(entry))
    for name in names:
        if name in (ZOO_EVAL, REGISTRY_ENTRY) or not (modules := host.modules(name)):
            continue
        distribution = host.distribution(name)
        records[name] = source_record(
            modules,
            None if distribution is None else distribution.name,
            None if distribution is None else distribution.version,
        )
    return records


def runtime_source(host: PluginHost, owned: OwnedRuntime) -> SourceRecord | None:
    """Return the sources of the plugin that brings a runtime; None for a built-in one, which is part of zoo-eval."""
    return None if owned.plugin_id == CORE else sources_here(host, [owned.plugin_id], None).get(owned.plugin_id)


def source_name(name: str) -> str:
    """Return the name of a source for a message, e.g. ``plugin toy_detector``."""
    return name if name in (ZOO_EVAL, REGISTRY_ENTRY) else f"plugin {name}"


def _required(distribution: Distribution) -> frozenset[str]:
    """Return the names of the distributions that another requires; those of zoo-eval are recorded for every run."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    if canonicalize_name(distribution.name) == ZOO_EVAL:
        return frozenset()
    names = set()
    for text in distribution.requires or ():
        with contextlib.suppress(InvalidRequirement):
            names.add(canonicalize_name(Requirement(text).name))
    return frozenset(names - {ZOO_EVAL})


def _entry_sha256(entry: ModelEntry) -> str:
    content = {name: value for name, value in dataclasses.asdict(entry).items() if name not in _WITHOUT_EFFECT}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
