"""The gate: one-sided tolerance, and runs that satisfy none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest

from results.conftest import MakeRun, edit_json
from results.gated import HEADLINE, QUANTIZED, checked, entry, reference, write_gated_run
from zoo_core.cli.main import run_command_line
from zoo_core.datatypes import ReferenceVariant
from zoo_core.errors import RecipeError, RegistryError, RunError
from zoo_core.plugins import PluginHost


@pytest.fixture
def run(make_run: MakeRun, host: PluginHost) -> Path:
    return write_gated_run(make_run, host)


@pytest.mark.parametrize(
    ("value", "tolerance", "status", "passed"),
    [
        (0.75, 0.0, "reproduced", True),
        (1.0, 0.25, "reproduced", True),  # exactly the tolerance below
        (1.0, 0.249, "regression", False),
        (0.5, 0.25, "reproduced", True),
        (0.5, 0.249, "improvement", True),
    ],
)
def test_the_tolerance_is_one_sided(
    host: PluginHost, run: Path, value: float, tolerance: float, status: str, passed: bool
) -> None:
    verdict = checked(host, run, reference(value, tolerance=tolerance))

    assert verdict.findings[0].status == status
    assert verdict.passed is passed
    assert verdict.obstacles == []


def test_a_value_that_was_not_measured_is_missing_and_fails(host: PluginHost, run: Path) -> None:
    for absent in (reference(0.5, stage="w4a8"), reference(0.5, key="map_50")):
        verdict = checked(host, run, reference(0.75), absent)
        assert [finding.status for finding in verdict.findings[:2]] == ["reproduced", "missing"]
        assert not verdict.passed
    assert checked(host, run, reference(0.75), reference(0.5, stage="w4a8"), stages=("fp32",)).passed


def test_stages_without_a_reference_are_new_and_do_not_fail(host: PluginHost, run: Path) -> None:
    verdict = checked(host, run, reference(0.75))

    assert [(found.stage, found.value) for found in verdict.findings if found.status == "new"] == [
        ("w8a8", 0.5),
        ("optimized_fp32", 0.5),
    ]
    assert verdict.passed


def test_without_a_reference_nothing_is_passed(host: PluginHost, run: Path) -> None:
    verdict = checked(host, run)

    assert not verdict.passed
    assert "nothing was checked" in verdict.obstacles[0]


def limited(record: dict[str, Any]) -> None:
    record["dataset"]["limited"] = True


def fewer(record: dict[str, Any]) -> None:
    record["dataset"]["num_images"] = 5


def overlap(record: dict[str, Any]) -> None:
    record["calibration"]["overlap"] = ["test_000"]


def other_split(record: dict[str, Any]) -> None:
    record["dataset"]["split"] = "trainval"


def failed(record: dict[str, Any]) -> None:
    record["status"] = "failed"


def short(record: dict[str, Any]) -> None:
    record["steps"][0].update(step="adaround", summary="10 iterations", short=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (limited, "The run is limited: 12 of the 12 images"),
        (fewer, "The run is limited: 5 of the 12 images"),
        (overlap, "1 calibration images belong to the evaluated split"),
        (other_split, "split 'trainval'; references are for 'test'"),
        (failed, "not complete: its status is 'failed'"),
        (short, "adaround was cut short: 10 iterations"),
    ],
)
def test_a_limited_stamped_or_incomplete_run_satisfies_no_gate(
    host: PluginHost, run: Path, spoil: Any, message: str
) -> None:
    edit_json(run / "run.json", spoil)

    verdict = checked(host, run, reference(0.1))

    assert message in " ".join(verdict.obstacles)
    assert not verdict.passed


def test_a_run_without_metrics_satisfies_no_gate(host: PluginHost, run: Path) -> None:
    (run / "metrics.json").unlink()

    verdict = checked(host, run, reference(0.1))

    assert not verdict.passed
    assert verdict.findings[0].status == "missing"


def test_a_stage_that_was_asked_for_needs_a_reference_that_fits(host: PluginHost, run: Path) -> None:
    verdict = checked(host, run, reference(0.75), stages=("fp32", "w8a8"))

    assert [finding.status for finding in verdict.findings] == ["reproduced", "new"]
    assert verdict.obstacles == ["No reference of stage 'w8a8' fits the run, so that stage was not checked."]
    assert not verdict.passed
    assert checked(host, run, reference(0.75), QUANTIZED, stages=("fp32", "w8a8")).passed


def test_a_stage_that_was_asked_for_and_whose_reference_was_set_aside_fails_the_gate(
    host: PluginHost, strange: Path
) -> None:
    verdict = checked(host, strange, reference(0.75), QUANTIZED, stages=("fp32", "w8a8"))

    assert [aside.reference.stage for aside in verdict.set_aside] == ["w8a8"]
    assert "No reference of stage 'w8a8' fits the run" in verdict.obstacles[0]
    assert not verdict.passed
    assert checked(host, strange, reference(0.75), QUANTIZED, stages=("fp32",)).passed


@pytest.mark.parametrize("value", [84.45, 1.0001, -0.1])
def test_a_measured_value_that_is_no_fraction_is_an_error_and_no_improvement(
    host: PluginHost, run: Path, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    def percent(metrics: dict[str, Any]) -> None:
        metrics["stages"]["fp32"]["metrics"][HEADLINE]["map"] = value

    edit_json(run / "metrics.json", percent)

    with pytest.raises(RunError, match=rf"metrics\.json: fp32 {HEADLINE} map is {value:g}, outside \[0, 1\]"):
        checked(host, run, reference(0.75))
    assert run_command_line(["check", str(run)]) == 2


def test_a_reference_that_is_no_fraction_is_an_error(host: PluginHost, run: Path) -> None:
    with pytest.raises(RegistryError, match=rf"for fp32 {HEADLINE} map is 75, outside \[0, 1\]"):
        checked(host, run, reference(75.0, tolerance=1.0))


def test_a_verdict_is_a_table_of_its_findings(host: PluginHost, run: Path) -> None:
    verdict = checked(host, run, reference(0.9, tolerance=0.1), QUANTIZED)

    assert verdict.rows()[0] == {
        "status": "regression",
        "stage": "fp32",
        "protocol": HEADLINE,
        "key": "map",
        "value": 0.75,
        "reference": 0.9,
        "tolerance": 0.1,
        "source": "a paper",
    }
    assert [row["reference"] for row in verdict.rows()] == [0.9, 0.5, None]
    lines = repr(verdict).splitlines()
    assert lines[0] == "toy_squares: failed"
    assert lines[2].split()[:5] == ["regression", "fp32", HEADLINE, "map", "0.7500"]


def test_an_unknown_stage_is_named(host: PluginHost, run: Path) -> None:
    with pytest.raises(RecipeError, match="has a stage 'w4a4'"):
        checked(host, run, reference(0.1), stages=("w4a4",))


@pytest.mark.parametrize(("value", "code"), [(0.75, 0), (0.9, 1)])
def test_the_command_exits_with_1_on_a_regression_and_writes_a_junit_report(
    host: PluginHost,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    value: float,
    code: int,
) -> None:
    changed = entry(host, dataclasses.replace(reference(value), source='a "paper" <1> & \x07'))
    monkeypatch.setattr(host, "model", lambda _name: changed)
    junit = tmp_path / "junit.xml"

    assert run_command_line(["check", str(run), "--junit", str(junit)]) == code
    assert capsys.readouterr().out.splitlines()[-1] == ("passed" if code == 0 else "failed")

    suite = fromstring(junit.read_bytes())  # noqa: S314  # our own file
    assert suite.get("tests") == "4"  # the run, the reference, two new stages
    assert suite.get("skipped") == "2"
    assert suite.get("failures") == str(code)
    if code:
        assert [failure.get("type") for failure in suite.iter("failure")] == ["regression"]

    assert run_command_line(["check", str(run), "--json"]) == code
    content = json.loads(capsys.readouterr().out)
    assert content["passed"] is (code == 0)
    assert content["findings"][0]["status"] == ("reproduced" if code == 0 else "regression")


def test_a_junit_report_that_cannot_be_written_is_an_error(
    host: PluginHost, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    assert run_command_line(["check", str(run), "--junit", str(tmp_path / "file" / "junit.xml")]) == 2
    assert "cannot be written" in capsys.readouterr().err


# --------------------------------------------------------------------------- references and their conditions


@pytest.fixture
def strange(run: Path) -> Path:
    """The run, as if made with a recipe that is none of the plugin's."""
    edit_json(run / "run.json", lambda record: record["recipe"].update(name="somebody's", sha256="b" * 64))
    return run


def test_a_reference_taken_with_the_runs_recipe_is_compared(host: PluginHost, run: Path) -> None:
    named = dataclasses.replace(QUANTIZED, recipe="w8a8_toy")
    verdict = checked(host, run, reference(0.75), QUANTIZED, named)
    assert [found.status for found in verdict.findings[:3]] == ["reproduced"] * 3
    assert verdict.set_aside == []


def test_a_run_with_another_recipe_is_not_compared_as_if_it_were_the_references(
    host: PluginHost, strange: Path
) -> None:
    verdict = checked(host, strange, reference(0.75), QUANTIZED)
    assert verdict.obstacles == [
        "No reference of stage 'w8a8' fits the run, so that stage was not checked. Name the stages to check with "
        "--stages."
    ]
    assert not verdict.passed
    assert [(found.stage, found.status) for found in verdict.findings] == [
        ("fp32", "reproduced"),
        ("w8a8", "new"),
        ("optimized_fp32", "new"),
    ]
    (aside,) = verdict.set_aside
    assert aside.reason == "taken with recipe w8a8_toy; the run used somebody's"
    assert checked(host, strange, reference(0.75), QUANTIZED, stages=("fp32",)).passed  # fp32 depends on no recipe


def test_references_that_were_all_set_aside_satisfy_nothing(host: PluginHost, strange: Path) -> None:
    verdict = checked(host, strange, dataclasses.replace(QUANTIZED, value=0.0))
    assert not verdict.passed
    assert "no reference for 'toy_squares' that fits the run" in verdict.obstacles[0]


def test_overrides_and_edits_make_another_recipe(host: PluginHost, run: Path) -> None:
    narrow = dataclasses.replace(QUANTIZED, settings=("quantsim.param_bw=4",))
    (aside,) = checked(host, run, reference(0.75), narrow).set_aside
    assert aside.reason == "taken with recipe w8a8_toy --set quantsim.param_bw=4; the run used w8a8_toy"
    edit_json(run / "run.json", lambda record: record["recipe"].update(sha256="e" * 64))
    (aside,) = checked(host, run, reference(0.75), QUANTIZED).set_aside
    assert aside.reason.endswith("the run used w8a8_toy, of other content")
    unknown = dataclasses.replace(QUANTIZED, recipe="w4a4_lost")
    (aside,) = checked(host, run, reference(0.75), unknown).set_aside
    assert "which cannot be read here" in aside.reason


def test_a_reference_for_any_recipe_is_always_compared(host: PluginHost, strange: Path) -> None:
    verdict = checked(host, strange, dataclasses.replace(QUANTIZED, recipe="any"))
    assert verdict.findings[0].status == "reproduced"
    assert verdict.passed


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        ({"torch": ">=2.15"}, True),
        ({"torch": "==2.15.0"}, True),  # the run's is 2.15.0+cpu
        ({"torch": "<2.15"}, False),
        ({"torch": ">=2.15", "aimet-torch": "<2.42"}, False),
        ({"onnxruntime": ">=1"}, False),  # the run did not have it
    ],
)
def test_the_value_is_that_for_the_versions_of_the_run(
    host: PluginHost, run: Path, versions: dict[str, str], chosen: bool
) -> None:
    edit_json(run / "run.json", lambda record: record["environment"]["packages"].update(torch="2.15.0+cpu"))
    variants = (
        ReferenceVariant(versions=versions, value=0.76, tolerance=0.02),
        ReferenceVariant(versions={"torch": ">=2"}, value=0.75),
    )
    finding = checked(host, run, dataclasses.replace(reference(0.9), variants=variants)).findings[0]
    assert finding.reference is not None
    assert (finding.reference.value, finding.reference.tolerance) == ((0.76, 0.02) if chosen else (0.75, 0.01))
    assert finding.versions == (
        ", ".join(f"{name} {wanted}" for name, wanted in versions.items()) if chosen else "torch >=2"
    )
    assert f"for {finding.versions}" in finding.message
    assert finding.status == "reproduced"


def test_the_table_and_the_report_say_which_reference_was_used_and_which_was_not(
    host: PluginHost, strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = (ReferenceVariant(versions={"aimet-torch": "==2.42.*"}, value=0.75),)
    changed = entry(host, dataclasses.replace(reference(0.9), variants=variants), QUANTIZED)
    monkeypatch.setattr(host, "model", lambda _name: changed)
    monkeypatch.setenv("COLUMNS", "200")
    junit = tmp_path / "junit.xml"
    assert run_command_line(["check", str(strange), "--junit", str(junit)]) == 1
    printed = capsys.readouterr().out
    assert "The reference of fp32 voc07_11pt/pytorch-ssd map is its value for aimet-torch ==2.42.*." in printed
    assert "Not compared: w8a8 voc07_11pt/pytorch-ssd 50.00 (a paper), taken with recipe w8a8_toy; the run" in printed
    assert b"not compared: taken with recipe w8a8_toy" in junit.read_bytes()
    assert b"(a paper, for aimet-torch ==2.42.*)" in junit.read_bytes()
    assert b"No reference of stage 'w8a8' fits the run" in junit.read_bytes()
    assert run_command_line(["check", str(strange), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert "No reference of stage 'w8a8' fits the run" in content["obstacles"][0]
    assert content["findings"][0]["versions"] == "aimet-torch ==2.42.*"
    assert content["set_aside"][0]["reference"]["stage"] == "w8a8"
