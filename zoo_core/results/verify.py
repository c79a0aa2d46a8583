"""Takes the hashes of a run's record again and names what has changed since."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from zoo_core import artifacts
from zoo_core.errors import ArtifactError, ZooError
from zoo_core.evaluation.prepare import fingerprint
from zoo_core.evaluation.sources import source_name, sources_here
from zoo_core.recipes import config_path, load_recipe, override
from zoo_core.results.rescore import score
from zoo_core.runs import provenance

if TYPE_CHECKING:
    from zoo_core.datatypes import EvalDataset, ModelEntry
    from zoo_core.plugins import PluginHost
    from zoo_core.results.stored import StoredRun
    from zoo_core.runs.parts import CheckpointRecord, EnvironmentRecord, RecipeRecord
    from zoo_core.runs.record import RunRecord

State: TypeAlias = Literal["holds", "stale", "unchecked"]

_CONFIG_COPY = "aimet_config.json"
_LAST_DIGITS = 1e-9
"""Scores may differ this much: another numpy may add in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Outcome of checking one claim of a record.

    Attributes:
        what: For example ``checkpoint``.
        state: ``holds``, ``stale`` where it is no longer so, ``unchecked`` where this cannot be decided here.
        message: The reason, without a full stop.
    """

    what: str
    state: State
    message: str


def verify(run: StoredRun, host: PluginHost, *, data: Path | None = None) -> Sequence[Check]:
    """Check everything that a run recorded by hash or version.

    Args:
        run: To be verified.
        host: The plugins; the model's owner opens the data.
        data: Root of the dataset; None for where the run found it.

    """
    return list(_checks(run, host, data))


def _checks(run: StoredRun, host: PluginHost, data: Path | None) -> Iterator[Check]:
    complete = run.status == "complete"
    yield Check(what="record", state="holds" if complete else "stale", message=f"its status is {run.status!r}")
    record = run.record
    digest = hashlib.sha256("\n".join(run.image_ids).encode()).hexdigest()
    yield _same("image list", digest, record.dataset.image_ids_sha256, "image_ids.txt")
    yield _checkpoint("checkpoint", record.checkpoint)
    if record.optimized_checkpoint is not None:
        yield _checkpoint("optimized checkpoint", record.optimized_checkpoint)
    yield _recipe(record.recipe)
    config = _config(run)
    if config is not None:
        yield config
    yield _libraries(record.environment)
    yield _sources(record, host)
    if not run.image_ids:
        return  # only quantized: nothing was evaluated
    yield from _data(run, host, data)


def _same(what: str, digest: str, recorded: str, name: str) -> Check:
    if digest == recorded:
        return Check(what=what, state="holds", message=f"{name} has the recorded hash {recorded[:12]}")
    return Check(what=what, state="stale", message=f"{name} has the hash {digest[:12]}; {recorded[:12]} was recorded")


def _checkpoint(what: str, checkpoint: CheckpointRecord | None) -> Check:
    if checkpoint is None:
        return Check(what=what, state="unchecked", message="the record names none")
    try:
        return _same(what, artifacts.sha256_of(Path(checkpoint.path)), checkpoint.sha256, checkpoint.path)
    except ArtifactError as error:
        return Check(what=what, state="stale", message=error.fact)


def _recipe(recorded: RecipeRecord) -> Check:
    try:
        recipe = load_recipe(Path(recorded.source))
        recipe = override(recipe, recorded.overrides) if recorded.overrides else recipe
    except ZooError as error:
        return Check(what="recipe", state="stale", message=f"it cannot be read any more: {error.fact}")
    return _same("recipe", recipe.sha256, recorded.sha256, recorded.source)


def _config(run: StoredRun) -> Check | None:
    """The AIMET configuration beside the recipe against the copy that the run kept; None where it kept none."""
    copy = run.path / "quantized" / _CONFIG_COPY
    recipe = run.record.recipe
    if not copy.is_file() or recipe.config_file is None:
        return None
    try:
        path = config_path(Path(recipe.source), recipe.config_file)
        same = path.read_bytes() == copy.read_bytes()
    except ZooError as error:
        return Check(what="configuration", state="stale", message=error.fact)
    except OSError as error:
        return Check(what="configuration", state="stale", message=f"{path} cannot be read: {error.strerror or error}")
    message = f"{path.name} is {'as' if same else 'not as'} the run's copy of it"
    return Check(what="configuration", state="holds" if same else "stale", message=message)


def _libraries(environment: EnvironmentRecord) -> Check:
    packages = environment.packages
    recorded = {**packages, "python": environment.python}
    here = {name: provenance.installed_version(name) for name in packages} | {"python": platform.python_version()}
    differ = [
        f"{name} {here[name] or 'not installed'} instead of {was}"
        for name, was in recorded.items()
        if here[name] != was
    ]
    if not packages:
        return Check(what="libraries", state="unchecked", message="no versions were recorded")
    message = ", ".join(differ) or f"{len(recorded)} versions are those of the run"
    return Check(what="libraries", state="stale" if differ else "holds", message=message)


def _sources(record: RunRecord, host: PluginHost) -> Check:
    """The sources of zoo-eval and the run's plugins as installed now, and the model's registry entry."""
    if not record.sources:
        return Check(what="sources", state="unchecked", message="no hashes of sources were recorded")
    try:
        entry = host.recorded_model(record.model, record.registry)
    except ZooError:
        entry = None
    here = sources_here(host, record.sources, entry)
    differ = [
        f"the sources of {source_name(name)} have changed since: {here.get(name, 'none')} instead of {was}"
        for name, was in record.sources.items()
        if here.get(name) != was
    ]
    if differ:
        return Check(what="sources", state="stale", message="; ".join(differ))
    unreadable = [source_name(name) for name, source in here.items() if source.sha256 is None]
    if unreadable:
        return Check(what="sources", state="unchecked", message=f"those of {', '.join(unreadable)} cannot be read")
    return Check(what="sources", state="holds", message=f"{len(here)} hashes are those of the run")


def _data(run: StoredRun, host: PluginHost, data: Path | None) -> Iterator[Check]:
    root = data or Path(run.record.dataset.root)
    if not root.exists():
        yield Check(what="data", state="unchecked", message=f"{root} does not exist here")
        yield Check(what="scores", state="unchecked", message="the annotations are not here")
        return
    try:
        entry = host.recorded_model(run.record.model, run.record.registry)
        dataset = run.open_dataset(entry, host, data=data)
        hashes = {image_id: dataset.content_hash(image_id) for image_id in run.image_ids}
    except ZooError as error:
        yield Check(what="data", state="stale", message=error.fact)
        yield Check(what="scores", state="unchecked", message="the data cannot be read")
        return
    content = _same("data", fingerprint(hashes), run.record.dataset.fingerprint, str(dataset.root))
    yield content
    if content.state == "stale":
        yield Check(what="scores", state="unchecked", message="the data has changed")
    else:
        yield _scores(run, entry, dataset, host)


def _scores(run: StoredRun, entry: ModelEntry, dataset: EvalDataset, host: PluginHost) -> Check:
    """Score the stored predictions again and compare every value with ``metrics.json``."""
    if run.metrics is None:
        return Check(what="scores", state="unchecked", message="the run has no metrics.json")
    differ = []
    try:
        targets = {image_id: dataset.target(image_id) for image_id in run.image_ids}
        for name, stage in run.metrics.stages.items():
            if stage.same_as is not None:
                continue
            metric = host.metric(entry, dataset.class_names)
            scores = score(metric, run.predictions(name, metric.prediction_type), targets)
            for protocol, computed in scores.items():
                recorded = stage.scores.get(protocol)
                for key, value in computed.values.items():
                    was = recorded.values.get(key) if recorded is not None else None
                    if (value is None) != (was is None) or abs((value or 0.0) - (was or 0.0)) > _LAST_DIGITS:
                        differ.append(f"{name} {protocol} {key} is {value}, {was} was recorded")
    except ZooError as error:
        return Check(what="scores", state="stale", message=error.fact)
    if differ:
        more = f", and {len(differ) - 1} more values differ" if len(differ) > 1 else ""
        return Check(what="scores", state="stale", message=f"{differ[0]}{more}")
    return Check(what="scores", state="holds", message="metrics.json follows from the stored predictions")
