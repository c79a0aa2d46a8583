"""Two runs, or two stages of one, paired by image."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from results.conftest import MakeRun, edit_json
from zoo_core import api
from zoo_core.cli.main import run_command_line
from zoo_core.errors import DataError, RegistryError, RunError, ZooError
from zoo_core.metrics import bootstrap
from zoo_core.plugins import PluginHost
from zoo_core.results.compare import Compared, CompareRequest, compare

HEADLINE = "voc07_11pt/pytorch-ssd"


@pytest.fixture
def twelve_images_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the small runs of these tests an interval."""
    monkeypatch.setattr(bootstrap, "MIN_IMAGES", 12)


@pytest.fixture
def pair(make_run: MakeRun) -> tuple[Path, Path]:
    """Two runs on the same images, the second with more noise."""
    return make_run("a", noise=0.03), make_run("b", noise=0.3)


def compared(host: PluginHost, run: Path, other: Path | None = None, **options: Any) -> Compared:
    return compare(CompareRequest(run=run, other=other, num_resamples=200, **options), host)


def recorded(run: Path, stage: str, protocol: str = HEADLINE) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((run / "metrics.json").read_text())["stages"][stage]["metrics"][protocol]
    return scores


@pytest.mark.parametrize("protocol", [None, "voc_area/devkit", "coco"])
def test_the_values_are_those_that_the_runs_recorded(
    pair: tuple[Path, Path], host: PluginHost, protocol: str | None
) -> None:
    found = compared(host, *pair, protocol=protocol)

    assert [(one.before, one.after) for one in found.pairs] == [
        ("fp32", "fp32"),
        ("w8a8", "w8a8"),
        ("optimized_fp32", "optimized_fp32"),
    ]
    for one in found.pairs:
        before, after = (recorded(run, one.before, found.protocol) for run in pair)
        assert one.overall.before == pytest.approx(before["map"])
        assert one.overall.after == pytest.approx(after["map"])
        assert one.overall.change == pytest.approx(after["map"] - before["map"])
        assert {name: value.after for name, value in one.classes.items()} == pytest.approx(after["per_class"])


@pytest.mark.usefixtures("twelve_images_suffice")
@pytest.mark.parametrize("protocol", ["voc07_11pt/pytorch-ssd", "coco"])
def test_without_the_fast_way_the_metric_gives_the_same_interval(
    pair: tuple[Path, Path], host: PluginHost, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = CompareRequest(run=pair[0], other=pair[1], stages=("w8a8",), protocol=protocol, num_resamples=40)
    fast = compare(request, host).pairs[0]
    slow_task = replace(host.task(host.model("toy_squares")), resample=None)
    monkeypatch.setattr(host, "task", lambda _entry: slow_task)
    slow = compare(request, host).pairs[0]

    assert slow.overall.change == pytest.approx(fast.overall.change)
    assert slow.overall.interval == pytest.approx(fast.overall.interval)
    assert {name: one.interval for name, one in slow.classes.items()} == {
        name: pytest.approx(one.interval) for name, one in fast.classes.items()
    }


@pytest.mark.usefixtures("twelve_images_suffice")
def test_images_of_any_order_keep_their_weights(pair: tuple[Path, Path], host: PluginHost) -> None:
    before = compared(host, *pair).pairs[1]
    for run in pair:
        listing = run / "image_ids.txt"
        listing.write_text("".join(reversed(listing.read_text().splitlines(keepends=True))))
    slow_task = replace(host.task(host.model("toy_squares")), resample=None)
    turned = compared(host, *pair).pairs[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "task", lambda _entry: slow_task)
        by_metric = compared(host, *pair).pairs[1]

    assert turned.overall.change == pytest.approx(before.overall.change)
    assert turned.overall.interval == pytest.approx(by_metric.overall.interval)


@pytest.mark.usefixtures("twelve_images_suffice")
def test_a_loss_has_an_interval_below_zero_and_lost_boxes(pair: tuple[Path, Path], host: PluginHost) -> None:
    w8a8 = compared(host, *pair).pairs[1]

    assert w8a8.overall.interval is not None
    assert w8a8.overall.change is not None
    assert w8a8.overall.interval[0] <= w8a8.overall.change <= w8a8.overall.interval[1] < 0
    assert w8a8.overall.p_value == pytest.approx(2 / 201)
    assert sum(count["lost"] for count in w8a8.counts.values()) > 0
    assert w8a8.most_changed


def test_few_images_have_no_interval_and_a_note_that_says_so(pair: tuple[Path, Path], host: PluginHost) -> None:
    found = compared(host, *pair)

    values = [value for one in found.pairs for value in (one.overall, *one.classes.values())]
    assert {(value.interval, value.p_value) for value in values} == {(None, None)}
    assert "No interval: 12 images; intervals and p-values need 20 or more." in found.notes


@pytest.mark.usefixtures("twelve_images_suffice")
def test_a_run_against_itself_differs_in_nothing(pair: tuple[Path, Path], host: PluginHost) -> None:
    for one in compared(host, pair[0], pair[0]).pairs:
        assert one.overall.change == 0.0
        assert one.overall.interval == (0.0, 0.0)
        assert one.overall.p_value == 1.0
        assert all(count["lost"] == count["gained"] == count["moved"] == 0 for count in one.counts.values())
        assert one.most_changed == []


@pytest.mark.usefixtures("twelve_images_suffice")
def test_exchanging_the_runs_exchanges_the_sign_and_lost_with_gained(pair: tuple[Path, Path], host: PluginHost) -> None:
    there, back = compared(host, *pair).pairs[1], compared(host, *reversed(pair)).pairs[1]

    assert there.overall.interval is not None
    assert back.overall.interval == pytest.approx((-there.overall.interval[1], -there.overall.interval[0]))
    for name, counts in there.counts.items():
        assert (counts["lost"], counts["gained"]) == (back.counts[name]["gained"], back.counts[name]["lost"])


def test_stages_of_one_run_are_held_against_the_first(make_run: MakeRun, host: PluginHost) -> None:
    run = make_run()

    assert [(one.before, one.after) for one in compared(host, run).pairs] == [("fp32", "w8a8")]
    named = compared(host, run, stages=("w8a8", "fp32", "optimized_fp32")).pairs
    assert [(one.before, one.after) for one in named] == [("w8a8", "fp32"), ("w8a8", "optimized_fp32")]
    assert named[0].overall == named[1].overall


@pytest.mark.usefixtures("twelve_images_suffice")
def test_a_seed_repeats_a_comparison(pair: tuple[Path, Path], host: PluginHost) -> None:
    assert compared(host, *pair, seed=4) == compared(host, *pair, seed=4)
    assert (
        compared(host, *pair, seed=4).pairs[1].overall.interval
        != compared(host, *pair, seed=5).pairs[1].overall.interval
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"limit": 7}, "images: 12 and 7, 7 in common"),
        ({"split": "trainval"}, "split: trainval instead of test; images: 12 and 8, 0 in common"),
    ],
)
def test_runs_on_other_images_are_refused(
    make_run: MakeRun, host: PluginHost, other: dict[str, Any], words: str
) -> None:
    with pytest.raises(RunError, match=words):
        compared(host, make_run("a"), make_run("b", **other))


def test_every_difference_that_matters_is_named_at_once(pair: tuple[Path, Path], host: PluginHost) -> None:
    def other_rule(metrics: dict[str, Any]) -> None:
        metrics["protocols"][HEADLINE]["definition"] = "another rule"

    def other_data(record: dict[str, Any]) -> None:
        record["headline"] = "coco"
        record["dataset"]["fingerprint"] = "e" * 64
        record["dataset"]["class_names"] = ["green", "red"]

    edit_json(pair[1] / "metrics.json", other_rule)
    edit_json(pair[1] / "run.json", other_data)

    with pytest.raises(RunError) as caught:
        compared(host, *pair)

    for words in (
        "content of images and annotations: eeeeeeeeeeee instead of ffffffffffff;",
        "classes: in another order",
        "headline protocol: coco instead of voc07",
        "definition of voc07",
    ):
        assert words in caught.value.fact


def test_a_protocol_that_is_named_need_not_be_the_first_of_both(pair: tuple[Path, Path], host: PluginHost) -> None:
    edit_json(pair[1] / "run.json", lambda record: record.update(headline="coco"))

    with pytest.raises(RunError, match="headline protocol: coco instead of voc07_11pt/pytorch-ssd"):
        compared(host, *pair)
    assert compared(host, *pair, protocol="voc_area/devkit").protocol == "voc_area/devkit"


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"stages": ("fp32",)}, RunError, "One stage, 'fp32', has nothing to be compared with"),
        ({"stages": ("fp32", "w4a4")}, RunError, "no predictions of a stage 'w4a4'"),
        ({"protocol": "voc12"}, RegistryError, "no detection protocol 'voc12'"),
        ({"seed": -1}, DataError, "--seed is -1"),
    ],
)
def test_what_cannot_be_compared_is_named(
    make_run: MakeRun, host: PluginHost, options: dict[str, Any], kind: type[ZooError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        compared(host, make_run(), **options)


def test_an_incomplete_run_is_refused(pair: tuple[Path, Path], host: PluginHost) -> None:
    edit_json(pair[1] / "run.json", lambda record: record.update(status="interrupted"))

    with pytest.raises(RunError, match="is not complete: its status is 'interrupted'"):
        compared(host, *pair)


@pytest.mark.parametrize("num", [-1, 0, 1, 39, 100_001, 10**12])
def test_a_number_of_resamples_that_makes_no_interval_is_refused(
    num: int, pair: tuple[Path, Path], host: PluginHost, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["compare", *map(str, pair), "--resamples", str(num)]) == 2

    assert f"error: --resamples is {num}.\n  fix: give 40 to 100000; " in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.5])
def test_a_score_threshold_outside_0_to_1_is_refused(value: float, pair: tuple[Path, Path], host: PluginHost) -> None:
    with pytest.raises(DataError, match=f"score_threshold is {value}"):
        api.compare(*pair, host=host, score_threshold=value)


def test_the_command_prints_a_table_or_one_json_object(
    pair: tuple[Path, Path], host: PluginHost, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", *map(str, pair), "--stages", "w8a8", "--resamples", "100"]

    assert run_command_line(arguments) == 0
    printed = capsys.readouterr().out
    assert "w8a8: RUN_B - RUN_A, grid test, 12 images" in printed
    assert "Holm" in printed

    assert run_command_line([*arguments, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["pairs"]
    assert one["overall"]["change"] == pytest.approx(one["overall"]["after"] - one["overall"]["before"])
    assert set(one["classes"]["red"]) == {"before", "after", "change", "interval", "p_value"}
    assert set(one["counts"]["red"]) == {"kept", "moved", "lost", "gained"}


@pytest.mark.usefixtures("twelve_images_suffice")
def test_a_comparison_is_a_table_of_changes(pair: tuple[Path, Path], host: PluginHost) -> None:
    found = compared(host, *pair, stages=("w8a8",))
    overall, *classes = found.rows()

    assert (overall["before"], overall["after"], overall["class"]) == ("w8a8", "w8a8", None)
    assert overall["change"] == found.pairs[0].overall.change
    assert (overall["low"], overall["high"]) == found.pairs[0].overall.interval
    assert overall["lost"] == sum(count["lost"] for count in found.pairs[0].counts.values())
    assert [row["class"] for row in classes] == ["red", "green"]
    assert classes[1]["change"] == found.pairs[0].classes["green"].change
    assert repr(found).splitlines()[0] == f"mAP under {HEADLINE}, grid test, 12 images"
    assert f"{overall['change']:.4f}" in repr(found)


def test_the_change_of_a_stage_and_its_recorded_drop_have_opposite_signs(make_run: MakeRun, host: PluginHost) -> None:
    run = make_run(noise=0.3)
    (pair,) = compared(host, run).pairs
    drop = json.loads((run / "metrics.json").read_text())["stages"]["w8a8"]["drop_points"]

    assert drop > 0
    assert pair.overall.change == pytest.approx(-drop / 100)
