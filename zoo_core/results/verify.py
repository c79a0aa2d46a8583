"""Whether a run's record still holds: every hash taken again, and what has changed since is named."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from zoo_core import artifacts, provenance
from zoo_core.errors import ArtifactError, ZooError
from zoo_core.evaluation.prepare import fingerprint
from zoo_core.recipes import config_path, load_recipe, override
from zoo_core.results.rescore import score

if TYPE_CHECKING:
    from zoo_core.datatypes import EvalDataset, ModelEntry
    from zoo_core.plugins import PluginHost
    from zoo_core.results.stored import StoredRun
    from zoo_core.runs.lenient import Facts

State: TypeAlias = Literal["holds", "stale", "unchecked"]

_CONFIG_COPY = "aimet_config.json"
_LAST_DIGITS = 1e-9
"""Scores may differ this much: another numpy may add in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that a record claims.

    Attributes:
        what: For example ``checkpoint``.
        state: ``holds``, ``stale`` where it is no longer so, ``unchecked`` where that cannot be said here.
        words: What was found, in a sentence.
    """

    what: str
    state: State
    words: str


def verify(run: StoredRun, host: PluginHost, *, data: Path | None = None) -> Sequence[Check]:
    """Check everything that a run recorded by hash or version.

    Args:
        run: To be verified.
        host: The plugins; the model's owner opens the data.
        data: Root of the dataset; None for where the run found it.

    Raises:
        RunError: The record does not say what is needed.
    """
    return list(_checks(run, host, data))


def _checks(run: StoredRun, host: PluginHost, data: Path | None) -> Iterator[Check]:
    complete = run.status == "complete"
    yield Check(what="record", state="holds" if complete else "stale", words=f"its status is {run.status!r}")
    found = hashlib.sha256("\n".join(run.image_ids).encode()).hexdigest()
    yield _same("image list", found, run.record.object("dataset").text("image_ids_sha256"), "image_ids.txt")
    yield _checkpoint(run, "checkpoint")
    if run.record.object("optimized_checkpoint").text("sha256") is not None:
        yield _checkpoint(run, "optimized_checkpoint")
    yield _recipe(run.record.object("recipe"))
    config = _config(run)
    if config is not None:
        yield config
    yield _libraries(run.record.object("environment"))
    if not run.image_ids:
        return  # only quantized: nothing was evaluated
    yield from _data(run, host, data)


def _same(what: str, found: str, recorded: str | None, name: str) -> Check:
    if recorded is None:
        return Check(what=what, state="unchecked", words=f"no hash of {name} was recorded")
    if found == recorded:
        return Check(what=what, state="holds", words=f"{name} has the recorded hash {recorded[:12]}")
    return Check(what=what, state="stale", words=f"{name} has the hash {found[:12]}; {recorded[:12]} was recorded")


def _checkpoint(run: StoredRun, key: str) -> Check:
    what = key.replace("_", " ")
    facts = run.record.object(key)
    path = facts.text("path")
    if path is None:
        return Check(what=what, state="unchecked", words="the record names none")
    try:
        return _same(what, artifacts.sha256_of(Path(path)), facts.text("sha256"), path)
    except ArtifactError as error:
        return Check(what=what, state="stale", words=error.fact)


def _recipe(facts: Facts) -> Check:
    source = facts.text("source")
    if source is None:
        return Check(what="recipe", state="unchecked", words="the record names none")
    try:
        recipe = load_recipe(Path(source))
        settings = facts.texts("overrides")
        recipe = override(recipe, settings) if settings else recipe
    except ZooError as error:
        return Check(what="recipe", state="stale", words=f"it cannot be read any more: {error.fact}")
    return _same("recipe", recipe.sha256, facts.text("sha256"), source)


def _config(run: StoredRun) -> Check | None:
    """The AIMET configuration beside the recipe against the copy that the run kept; None where it kept none."""
    copy = run.path / "quantized" / _CONFIG_COPY
    facts = run.record.object("recipe")
    steps, source = facts.items("steps"), facts.text("source")
    name = steps[-1].text("config_file") if steps else None
    if not copy.is_file() or name is None or source is None:
        return None
    try:
        path = config_path(Path(source), name)
        same = path.read_bytes() == copy.read_bytes()
    except ZooError as error:
        return Check(what="configuration", state="stale", words=error.fact)
    except OSError as error:
        return Check(what="configuration", state="stale", words=f"{path} cannot be read: {error.strerror or error}")
    words = f"{path.name} is {'as' if same else 'not as'} the run's copy of it"
    return Check(what="configuration", state="holds" if same else "stale", words=words)


def _libraries(environment: Facts) -> Check:
    packages = environment.object("packages")
    recorded = {name: packages.text(name) for name in packages} | {"python": environment.text("python")}
    here = {name: provenance.installed_version(name) for name in packages} | {"python": platform.python_version()}
    differ = [
        f"{name} {here[name] or 'not installed'} instead of {was}"
        for name, was in recorded.items()
        if here[name] != was
    ]
    if len(recorded) == 1:
        return Check(what="libraries", state="unchecked", words="no versions were recorded")
    words = ", ".join(differ) or f"{len(recorded)} versions are those of the run"
    return Check(what="libraries", state="stale" if differ else "holds", words=words)


def _data(run: StoredRun, host: PluginHost, data: Path | None) -> Iterator[Check]:
    root = data or Path(run.needed("dataset", "root"))
    if not root.exists():
        yield Check(what="data", state="unchecked", words=f"{root} does not exist here")
        yield Check(what="scores", state="unchecked", words="the annotations are not here")
        return
    try:
        entry = host.model(run.needed("model"))
        dataset = run.open_dataset(entry, host, data=data)
        hashes = {image_id: dataset.content_hash(image_id) for image_id in run.image_ids}
    except ZooError as error:
        yield Check(what="data", state="stale", words=error.fact)
        yield Check(what="scores", state="unchecked", words="the data cannot be read")
        return
    found = _same("data", fingerprint(hashes), run.record.object("dataset").text("fingerprint"), str(dataset.root))
    yield found
    if found.state == "stale":
        yield Check(what="scores", state="unchecked", words="the data has changed")
    else:
        yield _scores(run, entry, dataset, host)


def _scores(run: StoredRun, entry: ModelEntry, dataset: EvalDataset, host: PluginHost) -> Check:
    """Whether ``metrics.json`` follows from the stored predictions."""
    if run.metrics is None:
        return Check(what="scores", state="unchecked", words="the run has no metrics.json")
    differ = []
    try:
        targets = {image_id: dataset.target(image_id) for image_id in run.image_ids}
        for name, stage in run.metrics.objects("stages").items():
            if stage.text("same_as") is not None:
                continue
            metric = host.metric(entry, dataset.class_names)
            scores = score(metric, run.predictions(name, metric.prediction_type), targets)
            for protocol, found in scores.items():
                recorded = stage.object("metrics").object(protocol)
                for key, value in found.values.items():
                    was = recorded.number(key)
                    if (value is None) != (was is None) or abs((value or 0.0) - (was or 0.0)) > _LAST_DIGITS:
                        differ.append(f"{name} {protocol} {key} is {value}, {was} was recorded")
    except ZooError as error:
        return Check(what="scores", state="stale", words=error.fact)
    if differ:
        more = f", and {len(differ) - 1} more values differ" if len(differ) > 1 else ""
        return Check(what="scores", state="stale", words=f"{differ[0]}{more}")
    return Check(what="scores", state="holds", words="metrics.json follows from the stored predictions")
