"""Tables of the commands that look at finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo_core.cli.tables import percent
from zoo_core.datatypes import measure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo_core.datatypes import Measure, ProtocolScore
    from zoo_core.results.check import Verdict
    from zoo_core.results.compare import Compared, Difference
    from zoo_core.results.rescore import Rescored


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Print a table, its first column to the left and the others to the right, and lines below it."""
    console = Console(highlight=False)
    if not console.is_terminal:  # a pipe has no width of its own
        console = Console(highlight=False, width=120)
    if rows:
        table = Table(title=Text(title))
        for index, name in enumerate(columns):
            table.add_column(Text(name), justify="left" if index == 0 else "right")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for text in notes:
        console.print(Text(text), soft_wrap=True)


def metrics_json(scores: dict[str, ProtocolScore]) -> dict[str, Any]:
    """Scores as ``metrics.json`` has them."""
    return {protocol: {**score.values, "per_class": dict(score.per_class)} for protocol, score in scores.items()}


def classes_note(score: ProtocolScore, measured: Measure) -> Sequence[str]:
    """Return over how many classes the mean was taken; nothing for a value that is not a mean over classes."""
    if not measured.class_mean:
        return ()
    num_scored = sum(value is not None for value in score.per_class.values())
    return (f"{measured.overall} is the mean over {num_scored} of {len(score.per_class)} classes.",)


def print_rescored(found: Rescored) -> None:
    """Print stages by protocol; a submission class by class."""
    first = next(iter(found.stages.values()))
    columns = [name.replace("/", "/\n") for name in first]
    some = next(iter(first.values()))
    measured = measure(found.task, next(iter(some.values)))
    notes = [*found.notes, *some.notes, *classes_note(some, measured)]
    title = f"{found.dataset}, {some.num_images} images"
    if list(found.stages) == [""]:
        rows = [[name, *(percent(score.per_class[name]) for score in first.values())] for name in some.per_class]
        rows.append(["mean", *(percent(score.headline) for score in first.values())])
        print_table(
            f"{title}; {measured.per_class} in percent",
            ["class", *columns],
            rows,
            notes,
        )
        return
    rows = [[name, *(percent(score.headline) for score in scores.values())] for name, scores in found.stages.items()]
    print_table(f"{title}; {measured.overall} in percent", ["stage", *columns], rows, notes)


def print_compared(found: Compared) -> None:
    """Print, for each pair of stages, every class and the mean."""
    for pair in found.pairs:
        rows = [_difference_row(name, pair.classes[name], pair.changes[name]) for name in pair.classes]
        total = {kind: sum(counts[kind] for counts in pair.changes.values()) for kind in found.change_kinds}
        rows.append(_difference_row(found.measured, pair.mean, total))
        names = (pair.before, pair.after) if pair.before != pair.after else ("RUN_A", "RUN_B")
        title = f"{pair.after} against {pair.before}" if pair.before != pair.after else f"{pair.after}: RUN_B - RUN_A"
        columns = ("class", *names, "points", "95 % interval", "p", *found.change_kinds)
        notes = [f"Most changed images: {', '.join(pair.most_changed) or 'none'}."]
        print_table(f"{title}, {found.dataset}, {found.num_images} images, {found.protocol}", columns, rows, notes)
    print_table(
        "",
        (),
        (),
        [
            f"Intervals and p-values from {found.num_resamples} resamples of the images, seed {found.seed}; p-values "
            "of classes carry Holm's correction for their number, their intervals stand for each class alone.",
            found.change_definition,
            *([] if found.score_threshold is None else [f"The score threshold is {found.score_threshold:g}."]),
            *found.notes,
        ],
    )


def _difference_row(name: str, value: Difference, changes: Mapping[str, int]) -> list[str]:
    interval = value.interval
    return [
        name,
        percent(value.before),
        percent(value.after),
        "-" if value.difference is None else f"{100 * value.difference:+.2f}",
        "-" if interval is None else f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}",
        "-" if value.p_value is None else f"{value.p_value:.3f}",
        *(str(count) for count in changes.values()),
    ]


def print_verdict(verdict: Verdict) -> None:
    """Print each reference beside what was measured, and whether the gate is satisfied."""
    rows = []
    for finding in verdict.findings:
        reference = finding.reference
        rows.append(
            [
                f"{finding.stage} {finding.protocol} {finding.key}",
                percent(finding.value),
                percent(reference.value if reference else None),
                percent(reference.tolerance if reference else None),
                finding.status,
                reference.source if reference else "",
            ]
        )
    columns = ("value", "measured", "reference", "tolerance", "", "source")
    aside = [
        f"Not compared: {one.reference.value_name} {100 * one.reference.value:.2f} "
        f"({one.reference.source}), {one.words}."
        for one in verdict.set_aside
    ]
    chosen = [
        f"The reference of {finding.stage} {finding.protocol} {finding.key} is its value for {finding.versions}."
        for finding in verdict.findings
        if finding.versions
    ]
    notes = [*chosen, *aside, *verdict.obstacles, "passed" if verdict.passed else "failed"]
    print_table(f"{verdict.model}, in percent", columns, rows, notes)
