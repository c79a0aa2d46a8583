"""The tables and texts of the page, as plain values that the templates print."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.datatypes import Measure, measure
from zoo_core.report.loading import BASELINE
from zoo_core.runs.lenient import DASH, Facts, percent, points

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun


MAX_CLASS_ROWS = 120
"""Rows of the class table; ImageNet's thousand would be ten screens of small changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of texts.

    Attributes:
        columns: Headings; the first column names the row.
        rows: As many cells each.
        caption: What is shown, with its unit.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class under the headline protocol.

    Attributes:
        name: The class.
        num_objects: Objects that count; None where not recorded.
        values: Of the protocol, e.g. AP, in ``[0, 1]`` by stage; None where undefined.
        drop_points: Between the compared stages; None where undefined.
    """

    name: str
    num_objects: int | None
    values: Mapping[str, float | None]
    drop_points: float | None


def headline_value(stage: Facts, headline: str) -> float | None:
    """The first value of the headline protocol."""
    protocol = stage.object("metrics").object(headline)
    return next((protocol.number(key) for key in protocol if key != "per_class"), None)


def headline(run: LoadedRun) -> str:
    """Id of the protocol shown first; the first there is where it is not recorded."""
    named = run.metrics.text("headline") or run.record.text("headline")
    if named is not None:
        return named
    return next((name for stage in run.stages.values() for name in stage.object("metrics")), "")


def headline_measure(run: LoadedRun) -> Measure:
    """How the headline protocol's first value is called."""
    protocol = headline(run)
    keys = (key for stage in run.stages.values() for key in stage.object("metrics").object(protocol))
    return measure(run.task, next((key for key in keys if key != "per_class"), "value"))


def all_warnings(run: LoadedRun) -> tuple[str, ...]:
    """What limits the number, from both files, each once."""
    return tuple(dict.fromkeys([*run.metrics.texts("warnings"), *run.record.texts("warnings")]))


_COST_COLUMNS = ("network, ms an image", "weights, MB")


def stage_table(run: LoadedRun) -> Table:
    """One row per stage: headline value, drop, time and size."""
    protocol = headline(run)
    name_of_value = headline_measure(run).overall
    costs = run.record.objects("stages")
    rows = []
    for name, stage in run.stages.items():
        same_as = stage.text("same_as")
        cost = costs.get(same_as or name)
        rows.append(
            (
                f"{name} (= {same_as})" if same_as else name,
                percent(headline_value(stage, protocol)),
                "baseline" if name == BASELINE else points(_negative(stage.number("drop_points"))),
                *_costs(cost),
            )
        )
    return Table(
        columns=("stage", f"{name_of_value}, %", "against fp32, points", "images per second", *_COST_COLUMNS),
        rows=tuple(rows),
        caption=f"{name_of_value} under {protocol}. Quantized stages are simulated (quantsim), so their time is not a "
        "device's; their size counts weights at the simulated width and biases at 32 bits.",
    )


def _negative(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def _costs(cost: Facts | None) -> tuple[str, str, str]:
    if cost is None:
        return (DASH, DASH, DASH)
    rate, seconds, network = cost.number("images_per_second"), cost.number("seconds"), cost.number("network_seconds")
    size = cost.number("weights_bytes")
    per_image = 1e3 * network / (rate * seconds) if rate and seconds and network is not None else None
    return (
        DASH if rate is None else f"{rate:.1f}",
        DASH if per_image is None else f"{per_image:.1f}",
        DASH if size is None else f"{size / 1e6:.2f}",
    )


def protocol_table(run: LoadedRun) -> Table:
    """One row per protocol and value, one column per stage."""
    stages = {name: stage for name, stage in run.stages.items() if stage.text("same_as") is None}
    scores = {name: stage.objects("metrics") for name, stage in stages.items()}
    keys = dict.fromkeys(
        (protocol, key)
        for protocols in scores.values()
        for protocol, values in protocols.items()
        for key in values
        if key != "per_class"
    )
    rows = tuple(
        (
            f"{protocol} {measure(run.task, key).overall}",
            *(percent(values[protocol].number(key) if protocol in values else None) for values in scores.values()),
        )
        for protocol, key in keys
    )
    return Table(columns=("protocol", *stages), rows=rows, caption="The same predictions under every protocol, in %.")


def definitions(run: LoadedRun) -> list[tuple[str, str, list[str]]]:
    """Protocol id, its exact rule, and what limits it."""
    return [
        (name, facts.text("definition") or "not recorded", facts.texts("notes"))
        for name, facts in run.metrics.objects("protocols").items()
    ]


def class_scores(run: LoadedRun) -> list[ClassScore]:
    """Every class under the headline protocol, the largest drop first, undefined ones last."""
    protocol = headline(run)
    values = {
        name: stage.object("metrics").object(protocol).object("per_class")
        for name, stage in run.stages.items()
        if stage.text("same_as") is None
    }
    counts = run.metrics.object("protocols").object(protocol).object("num_objects")
    names = dict.fromkeys([*run.class_names, *(name for found in values.values() for name in found)])
    scores = []
    for name in names:
        per_stage = {stage: found.number(name) for stage, found in values.items()}
        num_objects = counts.number(name)
        scores.append(
            ClassScore(
                name=name,
                num_objects=None if num_objects is None else int(num_objects),
                values=per_stage,
                drop_points=_drop(per_stage, run.pair),
            )
        )
    return sorted(scores, key=lambda score: (score.drop_points is None, -(score.drop_points or 0.0), score.name))


def _drop(values: Mapping[str, float | None], pair: tuple[str, str] | None) -> float | None:
    if pair is None:
        return None
    before, after = values.get(pair[0]), values.get(pair[1])
    return None if before is None or after is None else 100.0 * (before - after)


def class_table(scores: list[ClassScore], pair: tuple[str, str] | None, measured: Measure) -> Table:
    """The scores as a table; of more than ``MAX_CLASS_ROWS`` classes those that lost and those that gained most."""
    shown = scores
    if len(scores) > MAX_CLASS_ROWS:
        shown = [*scores[: MAX_CLASS_ROWS * 3 // 4], *scores[-(MAX_CLASS_ROWS // 4) :]]
    stages = list(scores[0].values) if scores else []
    rows = tuple(
        (
            score.name,
            DASH if score.num_objects is None else str(score.num_objects),
            *(percent(score.values[stage]) for stage in stages),
            points(_negative(score.drop_points)),
        )
        for score in shown
    )
    part = "" if len(shown) == len(scores) else f" {len(shown)} of {len(scores)} classes; metrics.json holds all."
    against = f"; the change is that of {pair[1]} against {pair[0]}" if pair else ""
    return Table(
        columns=("class", measured.counted, *stages, "change, points"),
        rows=rows,
        caption=f"{measured.per_class} in %{against}, largest drop first.{part}",
    )


def summary(run: LoadedRun) -> str:
    """What was measured on what with which result, in one paragraph for a mail."""
    record, dataset = run.record, run.record.object("dataset")
    protocol = headline(run)
    model = run.metrics.text("model") or record.text("model") or "The model"
    checkpoint = record.object("checkpoint").text("sha256")
    num_images, split = run.metrics.number("num_images"), dataset.text("split")
    limited = run.metrics.flag("limited") or dataset.flag("limited")
    in_split = dataset.number("num_images_in_split")
    what = f"{model}{f' (checkpoint SHA-256 {checkpoint[:12]}…)' if checkpoint else ''}"
    where = f"{dataset.text('name') or 'data that the record does not name'}{f' {split}' if split else ''}"
    how_many = "" if num_images is None else f", {num_images:.0f} images"
    part = f" of {in_split:.0f} (a limited run)" if limited and in_split is not None else ""
    sentences = [
        f"{what} was evaluated on {where}{how_many}{part}, {headline_measure(run).overall} under "
        f"{protocol or 'an unknown protocol'}."
    ]
    results = [text for name, stage in run.stages.items() if (text := _result(name, stage, protocol))]
    if results:
        sentences.append(f"Result: {'; '.join(results)}.")
    sentences += _conditions(record)
    return " ".join(sentences)


def _result(name: str, stage: Facts, protocol: str) -> str:
    value, drop = headline_value(stage, protocol), stage.number("drop_points")
    if stage.text("same_as") is not None:
        return ""
    if value is None:
        return f"{name} undefined"
    text = f"{name} {percent(value)} %"
    return text if name == BASELINE or drop is None else f"{text} ({points(-drop)} points)"


def _conditions(record: Facts) -> list[str]:
    recipe, calibration = record.object("recipe"), record.object("calibration")
    settings, sentences = record.object("settings"), []
    name, num = recipe.text("name"), calibration.number("num_images")
    if name is not None:
        calibrated = "" if num is None else f", calibrated on {num:.0f} images of {calibration.text('split') or '?'}"
        sentences.append(f"Recipe {name} ({recipe.text('quant_scheme') or 'unknown scheme'}){calibrated}.")
    batch, device = settings.number("batch_size"), settings.text("device")
    how = [f"batch size {batch:.0f}" if batch is not None else "", f"on {device}" if device else ""]
    packages = record.object("environment").object("packages")
    versions = ", ".join(
        f"{package} {packages.text(package)}" for package in ("torch", "aimet-torch") if package in packages
    )
    by = f"zoo-eval {record.text('zoo_eval') or 'of unknown version'}{f' ({versions})' if versions else ''}"
    conditions = " ".join(part for part in how if part)
    sentences.append(f"Quantization is simulated, by {by}{f', {conditions}' if conditions else ''}.")
    if (finished := record.text("finished")) is not None:
        sentences.append(f"Finished {finished[:10]}.")
    return sentences


_FLAGS = {
    "optimized_checkpoint": "--optimized-checkpoint",
    "labels": "--labels",
    "recipe": "--recipe",
    "split": "--split",
    "ids_file": "--ids",
    "calibration_split": "--calibration-split",
}
_NUMBERS = {"limit": "--limit", "calibration_size": "--calibration-size", "workers": "--workers", "seed": "--seed"}


def reproducing_command(run: LoadedRun) -> str:
    """A command line that asks for the same run, every default written out; empty where the record has no request."""
    request, settings = run.record.object("request"), run.record.object("settings")
    model = run.record.text("model")
    if model is None or not list(request):
        return ""
    words = ["zoo-eval", "run", model]
    root = run.record.object("dataset").text("root") or request.text("data")
    checkpoint = request.text("checkpoint") or run.record.object("checkpoint").text("path")
    for flag, value in (("--data", root), ("--checkpoint", checkpoint)):
        words += [flag, value] if value else []
    for key, flag in _FLAGS.items():
        text = request.text(key)
        words += [flag, text] if text else []
    for override in request.texts("settings"):
        words += ["--set", override]
    stages = settings.texts("stages")
    words += ["--stages", ",".join(stages)] if stages else []
    for key, flag in _NUMBERS.items():
        number = request.number(key)
        words += [flag, str(int(number))] if number is not None else []
    batch, device = settings.number("batch_size"), settings.text("device")
    words += ["--batch-size", str(int(batch))] if batch is not None else []
    words += ["--device", device] if device else []
    backend = settings.text("backend")
    words += ["--backend", backend] if backend else []
    words += ["--allow-calibration-overlap"] if request.flag("allow_calibration_overlap") else []
    return _lines(words)


def recorded_command(run: LoadedRun) -> str:
    """The command line as it was given; empty for a run started from Python."""
    return _lines(run.record.object("request").texts("command"))


def _lines(words: Sequence[str]) -> str:
    """A command for a shell, one option a line: a browser would break the line inside ``--option``."""
    text = ""
    for word in words:
        start = "" if not text else " \\\n  " if word.startswith("-") else " "
        text += start + shlex.quote(word)
    return text
