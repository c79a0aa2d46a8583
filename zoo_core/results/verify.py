"""Computes the hashes and the results of a run again and names what has changed since."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, TypeAlias

from zoo_core import artifacts
from zoo_core.datatypes import DatasetRequest
from zoo_core.errors import ArtifactError, ZooError
from zoo_core.evaluation.prepare import fingerprint
from zoo_core.evaluation.sources import runtime_source, source_name, sources_here
from zoo_core.evaluation.starting import hash_of_ids
from zoo_core.recipes import config_path, load_recipe, override
from zoo_core.results.expected import differences, expected_metrics
from zoo_core.runs import provenance
from zoo_core.runs.hashes import IMAGE_IDS, INPUTS, METRICS, MODEL, PREDICTIONS, QUANTIZED, file_problems
from zoo_core.runs.record import read_metrics

if TYPE_CHECKING:
    from zoo_core.plugins import PluginHost
    from zoo_core.results.stored import StoredRun
    from zoo_core.runs.parts import CalibrationRecord, CheckpointRecord, EnvironmentRecord, RecipeRecord
    from zoo_core.runs.record import RunRecord

State: TypeAlias = Literal["holds", "stale", "unchecked"]

_CONFIG_COPY = "aimet_config.json"
_MOST_NAMED = 20
"""Files to name in a message."""


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
    """Check everything that a run recorded by hash or version, and that its results follow from its predictions.

    Args:
        run: To be verified.
        host: The plugins; the model's owner opens the data.
        data: Root of the dataset; None for where the run found it.

    """
    run = replace(run, metrics=None)  # nothing may be taken from a file that is to be checked
    inputs = verify_inputs(run, host, data=data)
    content = next((check for check in inputs if check.what == "data"), None)
    return [*_outputs(run), *inputs, *_results(run, host, data, content)]


def verify_inputs(run: StoredRun, host: PluginHost, *, data: Path | None = None) -> Sequence[Check]:
    """Check what a run depends on: weights, recipe, libraries, sources, and the images. As ``verify``."""
    return list(_inputs(run, host, data))


def _outputs(run: StoredRun) -> Iterator[Check]:
    """The run's own files."""
    yield _record(run)
    yield _image_list(run)
    yield _files(run)


def _record(run: StoredRun) -> Check:
    """The status of the record, and the fields that must agree with others or with the run's files."""
    record = run.record
    problems = [] if run.status == "complete" else [f"its status is {run.status!r}"]
    predicted = {PurePosixPath(name).parts[1] for name in record.files or {} if name.startswith(f"{PREDICTIONS}/")}
    problems += [
        f"it lists predictions of {name}, but no such stage" for name in sorted(predicted - set(record.stages))
    ]
    num_ids = {"dataset": (record.dataset.num_images, len(run.image_ids))} if _image_list(run).state == "holds" else {}
    if record.calibration is not None:
        num_ids["calibration"] = (record.calibration.num_images, len(record.calibration.ids))
    problems += [
        f"{part}.num_images is {said}, but {num} are listed" for part, (said, num) in num_ids.items() if said != num
    ]
    state: State = "stale" if problems else "holds"
    return Check(what="record", state=state, message="; ".join(problems) or "it is complete and agrees with itself")


def _image_list(run: StoredRun) -> Check:
    return _same("image list", hash_of_ids(run.image_ids), run.record.dataset.image_ids_sha256, IMAGE_IDS)


def _files(run: StoredRun) -> Check:
    recorded = run.record.files
    if recorded is None:
        return Check(what="files", state="unchecked", message="runs before schema 3 have no hashes of their files")
    problems = file_problems(run.path, recorded, all_recorded=run.status == "complete")
    if not problems:
        return Check(what="files", state="holds", message=f"{len(recorded)} files have their recorded hashes")
    more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
    message = "; ".join(map(str, problems[:_MOST_NAMED])) + more
    return Check(what="files", state="stale", message=message)


def _inputs(run: StoredRun, host: PluginHost, data: Path | None) -> Iterator[Check]:
    record = run.record
    yield _checkpoint("checkpoint", record.checkpoint)
    if record.optimized_checkpoint is not None:
        yield _checkpoint("optimized checkpoint", record.optimized_checkpoint)
    yield _recipe(record.recipe)
    yield _config(run)
    yield _libraries(record.environment)
    yield _sources(record, host)
    yield from _runtimes(run, host)
    if record.calibration is not None:
        yield _calibration(run, record.calibration, host, data)
    if run.image_ids:  # otherwise only quantized: nothing was evaluated
        yield _data(run, host, data)


def _results(run: StoredRun, host: PluginHost, data: Path | None, content: Check | None) -> Iterator[Check]:
    if run.record.evaluate:
        yield _predictions(run, host)
        yield _scores(run, host, data, content)


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


def _config(run: StoredRun) -> Check:
    """The AIMET configuration beside the recipe, and the copies of it that the run kept."""
    recipe = run.record.recipe
    kept = [f"{folder}/{_CONFIG_COPY}" for folder in (INPUTS, QUANTIZED) if (run.path / folder / _CONFIG_COPY).exists()]
    paths = {name: run.path / name for name in kept}
    try:
        if recipe.config_file is not None:
            path = config_path(Path(recipe.source), recipe.config_file)
            paths[str(path)] = path
        hashes = {name: artifacts.sha256_of(path) for name, path in paths.items()}
    except ZooError as error:
        return Check(what="configuration", state="stale", message=error.fact)
    differ = [name for name, digest in hashes.items() if digest != recipe.config_sha256]
    if differ:
        message = f"{', '.join(differ)} has another hash than {recipe.config_sha256[:12]}, which was recorded"
        return Check(what="configuration", state="stale", message=message)
    if not hashes:
        return Check(what="configuration", state="unchecked", message="the record names no file")
    message = f"{', '.join(hashes)} has the recorded hash {recipe.config_sha256[:12]}"
    return Check(what="configuration", state="holds", message=message)


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


def _runtimes(run: StoredRun, host: PluginHost) -> Iterator[Check]:
    """The exported network, and for each runtime its version and the sources of its plugin."""
    deployed = [stage.deployment for stage in run.record.stages.values() if stage.deployment is not None]
    try:
        known = host.runtimes() if deployed else {}
    except ZooError as error:
        yield Check(what="runtimes", state="unchecked", message=error.fact)
        return
    model = f"{QUANTIZED}/{MODEL}"
    for one in deployed:
        what = f"runtime {one.runtime}"
        problems = []
        if (run.record.files or {}).get(model) != one.model_sha256:
            problems.append(f"it executed another network than {model}")
        if one.runtime not in known:
            yield Check(what=what, state="unchecked", message="no plugin brings it here")
            continue
        owned = known[one.runtime]
        try:
            version = owned.availability().version
        except ZooError as error:
            yield Check(what=what, state="unchecked", message=error.fact)
            continue
        if version != one.version:
            problems.append(f"version {version or 'not installed'} instead of {one.version}")
        if runtime_source(host, owned) != one.source:
            problems.append(f"the sources of plugin {owned.plugin_id} have changed since")
        state: State = "stale" if problems else "holds"
        yield Check(what=what, state=state, message="; ".join(problems) or f"version {one.version} and its plugin")


def _calibration(run: StoredRun, recorded: CalibrationRecord, host: PluginHost, data: Path | None) -> Check:
    what, root = "calibration images", _root(run, data)
    if recorded.fingerprint is None:
        return Check(what=what, state="unchecked", message="the record has no hash of them")
    if not root.exists():
        return Check(what=what, state="unchecked", message=f"{root} does not exist here")
    try:
        entry = host.recorded_model(run.record.model, run.record.registry)
        request = DatasetRequest(root=root, split=recorded.split, label_file=run.record.request.labels)
        dataset = host.dataset(entry, request)
        hashes = {image_id: dataset.content_hash(image_id) for image_id in recorded.ids}
    except ZooError as error:
        return Check(what=what, state="stale", message=error.fact)
    name = f"the list of {len(hashes)} images of {recorded.split} in {dataset.root}"
    return _same(what, fingerprint(hashes), recorded.fingerprint, name)


def _root(run: StoredRun, data: Path | None) -> Path:
    return data or Path(run.record.dataset.root)


def _data(run: StoredRun, host: PluginHost, data: Path | None) -> Check:
    root = _root(run, data)
    if not root.exists():
        return Check(what="data", state="unchecked", message=f"{root} does not exist here")
    if _image_list(run).state == "stale":
        return Check(what="data", state="unchecked", message="the image list has changed")
    try:
        entry = host.recorded_model(run.record.model, run.record.registry)
        dataset = run.open_dataset(entry, host, data=data)
        hashes = {image_id: dataset.content_hash(image_id) for image_id in run.image_ids}
    except ZooError as error:
        return Check(what="data", state="stale", message=error.fact)
    recorded = run.record.dataset
    split = recorded.split_ids_sha256
    if split is not None and (split, recorded.num_images_in_split) != (hash_of_ids(dataset.ids), len(dataset.ids)):
        fact = f"{recorded.split} of {dataset.root} lists {len(dataset.ids)} images, and not those that were recorded"
        return Check(what="data", state="stale", message=fact)
    return _same("data", fingerprint(hashes), recorded.fingerprint, str(dataset.root))


def _predictions(run: StoredRun, host: PluginHost) -> Check:
    """The binding of each chunk to its stage, network and run."""
    record, foreign, num_bound = run.record, [], 0
    try:
        task = host.task(host.recorded_model(record.model, record.registry))
    except ZooError as error:
        return Check(what="predictions", state="unchecked", message=error.fact)
    for name in record.stages:
        chunks = run.foreign_chunks(name, task.prediction_type)
        num_bound += chunks is not None
        foreign += [str(path.relative_to(run.path)) for path in chunks or ()]
    if foreign:
        more = f" and {len(foreign) - _MOST_NAMED} more" if len(foreign) > _MOST_NAMED else ""
        message = f"another stage or another run computed {', '.join(foreign[:_MOST_NAMED])}{more}"
        return Check(what="predictions", state="stale", message=message)
    if not num_bound:
        return Check(what="predictions", state="unchecked", message="the chunks do not name their stage and run")
    return Check(what="predictions", state="holds", message="every chunk belongs to its stage and to this run")


def _scores(run: StoredRun, host: PluginHost, data: Path | None, content: Check | None) -> Check:
    """Compare the whole of ``metrics.json`` with what follows; ``content`` is the check of the data."""
    if not (run.path / METRICS).exists():
        state: State = "stale" if run.status == "complete" else "unchecked"
        return Check(what="scores", state=state, message=f"the run has no {METRICS}")
    try:
        metrics = read_metrics(run.path)
        if content is None or content.state != "holds":
            reason = "the image list or the data has changed, or is not here"
            return Check(what="scores", state="unchecked", message=reason)
        entry = host.recorded_model(run.record.model, run.record.registry)
        expected = expected_metrics(run, entry, run.open_dataset(entry, host, data=data), host)
    except ZooError as error:
        return Check(what="scores", state="stale", message=error.fact)
    differ = [] if metrics is None else differences(metrics, expected, scores_only=run.record.files is None)
    if differ:
        more = f", and {len(differ) - 1} more fields differ" if len(differ) > 1 else ""
        return Check(what="scores", state="stale", message=f"{differ[0]}{more}")
    return Check(what="scores", state="holds", message=f"{METRICS} follows from the stored predictions")
