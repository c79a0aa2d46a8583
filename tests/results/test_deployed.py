"""What is asked of a finished run with runtimes: check, compare, verify, reproduce, rescore, report, and the list."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployed_runs import DEPLOYED, SIMULATED, STAGES, evaluate_on, host_with, write_place
from results.conftest import edit_json
from results.gated import HEADLINE, checked
from runtimes import pretending
from zoo_core import api, artifacts
from zoo_core.datatypes import ANY_RECIPE, Availability, Reference
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.plugins import PluginHost
from zoo_core.report.html import render_report
from zoo_core.results.check import Verdict
from zoo_core.results.expected import expected_metrics
from zoo_core.results.stored import open_run
from zoo_core.results.verify import Check
from zoo_core.runs.lenient import ReadableRecord, read_leniently
from zoo_core.runs.record import read_metrics


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp("deployed"))


@pytest.fixture(scope="module")
def deployed(place: Path) -> Path:
    """A run with an emulator; do not write into it."""
    return evaluate_on(place, place / "deployed", pretending.Emulator()).run_dir


@pytest.fixture
def host() -> PluginHost:
    return host_with(pretending.Emulator())


@pytest.fixture
def run(deployed: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(deployed, tmp_path / "run")


# ------------------------------------------------------------------ check


def reference(value: float, stage: str = SIMULATED) -> Reference:
    return Reference(
        stage=stage,
        protocol=HEADLINE,
        value=value,
        tolerance=0.01,
        source="a paper",
        key="map",
        recipe=ANY_RECIPE,
        num_calibration_images=8,
    )


def measured(run: Path, stage: str = DEPLOYED) -> float:
    metrics = read_metrics(run)
    assert metrics is not None
    value = metrics.stages[stage].scores[HEADLINE].headline
    assert value is not None
    return value


def findings(verdict: Verdict) -> dict[str, str]:
    return {finding.stage: finding.status for finding in verdict.findings}


def set_value(run: Path, stage: str, value: float) -> None:
    path = run / "metrics.json"
    edit_json(path, lambda content: content["stages"][stage]["metrics"][HEADLINE].update({"map": value}))
    edit_json(run / "run.json", lambda content: content["files"].update({"metrics.json": artifacts.sha256_of(path)}))


def set_parity(run: Path, **parity: Any) -> None:
    edit_json(run / "run.json", lambda content: content["stages"][DEPLOYED]["deployment"]["parity"].update(parity))


def test_a_runtime_must_reach_what_the_reference_promises_of_its_simulation(host: PluginHost, run: Path) -> None:
    value = measured(run, SIMULATED)

    verdict = checked(host, run, reference(value))

    assert verdict.passed, verdict
    assert findings(verdict) == {SIMULATED: "reproduced", DEPLOYED: "reproduced", "fp32": "new"}
    assert [finding.source for finding in verdict.findings][:2] == ["a paper", f"a paper, of {SIMULATED}"]


def test_a_runtime_that_loses_what_the_simulation_keeps_fails(host: PluginHost, run: Path) -> None:
    value = measured(run)
    set_value(run, DEPLOYED, value - 0.2)

    verdict = checked(host, run, reference(value))

    assert not verdict.passed
    assert findings(verdict) == {SIMULATED: "reproduced", DEPLOYED: "regression", "fp32": "new"}


def test_a_reference_of_its_own_takes_the_place_of_the_simulations(host: PluginHost, run: Path) -> None:
    value = measured(run)
    set_value(run, DEPLOYED, value - 0.2)

    verdict = checked(host, run, reference(value), reference(value - 0.2, DEPLOYED))

    assert verdict.passed, verdict
    assert [finding.source for finding in verdict.findings if finding.stage == DEPLOYED] == ["a paper"]


def test_a_layer_over_the_threshold_fails_and_is_named_whatever_the_metric(host: PluginHost, run: Path) -> None:
    def exceed(content: dict[str, Any]) -> None:
        parity = content["stages"][DEPLOYED]["deployment"]["parity"]
        parity["first_over_threshold"] = "head"
        parity["layers"][1].update(differing=0.5, differing_inside=0.5, max_lsb=7)

    edit_json(run / "run.json", exceed)

    verdict = checked(host, run, reference(measured(run)))

    assert not verdict.passed
    (obstacle,) = verdict.obstacles
    assert obstacle.startswith(f"{DEPLOYED}: layer head differs from the simulation in 50.00 % of its integers, by up")
    assert checked(host, run, reference(measured(run)), stages=(SIMULATED,)).passed


def test_layers_that_were_not_compared_satisfy_no_gate(host: PluginHost, run: Path) -> None:
    edit_json(run / "run.json", lambda content: content["stages"][DEPLOYED]["deployment"].update(parity=None))

    verdict = checked(host, run, reference(measured(run)))

    assert verdict.obstacles == [f"The layers of {DEPLOYED} were not compared with the simulation."]


def test_a_layer_that_was_edited_out_of_the_threshold_satisfies_no_gate(host: PluginHost, run: Path) -> None:
    """``first_over_threshold`` says that all is well, and the layers beside it do not."""

    def hide(content: dict[str, Any]) -> None:
        content["stages"][DEPLOYED]["deployment"]["parity"]["layers"][1].update(differing_inside=0.9, max_lsb=90)

    edit_json(run / "run.json", hide)

    verdict = checked(host, run, reference(measured(run)))

    assert not verdict.passed
    assert any("layer head differs" in text for text in verdict.obstacles)


def test_a_layer_over_the_threshold_that_is_not_listed_is_an_obstacle_and_no_crash(host: PluginHost, run: Path) -> None:
    set_parity(run, first_over_threshold="gone")

    verdict = checked(host, run, reference(measured(run)))

    assert verdict.obstacles == [f"{DEPLOYED}: layer gone is named as different, and no layer listed is."]


# ------------------------------------------------------------------ compare, rescore, list


def test_a_runtime_is_compared_with_its_simulation(host: PluginHost, deployed: Path) -> None:
    found = api.compare(deployed, stages=[SIMULATED, DEPLOYED], host=host)

    assert "0.00" in repr(found)
    assert DEPLOYED in repr(found)


def test_two_runs_are_compared_stage_by_stage_and_mention_the_versions_of_runtimes(
    host: PluginHost, deployed: Path, place: Path, tmp_path: Path
) -> None:
    newer = pretending.Emulator()
    newer.version = "2.0"
    other = evaluate_on(place, tmp_path / "other", newer).run_dir

    found = api.compare(deployed, other, stages=[DEPLOYED], host=host)

    assert any("versions of runtimes: emulator 2.0 instead of 1.0" in note for note in found.notes), found.notes


def test_rescore_gives_the_values_of_the_run_for_a_runtime(host: PluginHost, deployed: Path) -> None:
    found = api.rescore(deployed, stages=[DEPLOYED], host=host)

    values = {row["protocol"]: row["value"] for row in found.rows() if row["key"] == "map"}
    assert values[HEADLINE] == measured(deployed)


def test_the_list_of_runs_has_the_rows_of_runtimes(deployed: Path) -> None:
    (listed,) = [one for one in api.list_runs(deployed.parent) if one.path == deployed]

    assert listed.values[DEPLOYED] == measured(deployed)


# ------------------------------------------------------------------ verify


def states(checks: Any) -> dict[str, str]:
    return {check.what: check.state for check in checks}


def stale(run: Path, host: PluginHost) -> list[Check]:
    return [check for check in api.verify(run, host=host) if check.state == "stale"]


def test_everything_holds_of_a_run_with_a_runtime(host: PluginHost, deployed: Path) -> None:
    found = states(api.verify(deployed, host=host))

    assert found["runtime emulator"] == "holds"
    assert {state for what, state in found.items() if what != "checkpoint"} == {"holds"}, found


def test_the_comparison_with_the_simulation_follows_from_the_predictions(host: PluginHost, run: Path) -> None:
    opened = open_run(run)
    entry = host.model("toy_squares")

    assert expected_metrics(opened, entry, opened.open_dataset(entry, host), host) == opened.metrics

    edit_json(run / "metrics.json", lambda content: content["stages"][DEPLOYED]["simulation"]["counts"].update(lost=3))
    (scores,) = [check for check in stale(run, host) if check.what == "scores"]
    assert scores.message.startswith(f"stages.{DEPLOYED}.simulation.counts.lost is 3; 0 follows")


def test_another_version_of_a_runtime_is_stale(run: Path) -> None:
    newer = pretending.Emulator()
    newer.version = "2.0"

    (found,) = stale(run, host_with(newer))

    assert (found.what, found.message) == ("runtime emulator", "version 2.0 instead of 1.0")


def test_a_runtime_that_is_not_installed_is_unchecked(run: Path) -> None:
    found = {check.what: check for check in api.verify(run, host=host_with())}["runtime emulator"]

    assert (found.state, found.message) == ("unchecked", "no plugin brings it here")


def test_a_runtime_that_cannot_be_asked_is_unchecked(run: Path) -> None:
    class Raising(pretending.Emulator):
        def availability(self) -> Availability:
            raise OSError("libemulator.so: cannot open shared object file")

    found = {check.what: check for check in api.verify(run, host=host_with(Raising()))}["runtime emulator"]

    assert found.state == "unchecked"
    assert "Plugin 'acme' failed in availability of zoo_runtimes: OSError: libemulator.so" in found.message


def test_another_exported_network_is_stale(host: PluginHost, run: Path) -> None:
    model = run / "quantized" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\x00")

    assert [check.what for check in stale(run, host)] == ["files"]

    digest = artifacts.sha256_of(model)
    edit_json(run / "run.json", lambda content: content["files"].update({"quantized/model.onnx": digest}))
    found = {check.what: check.message for check in stale(run, host)}
    assert found["runtime emulator"] == "it executed another network than quantized/model.onnx"


def test_predictions_of_the_simulation_are_not_those_of_a_runtime(host: PluginHost, run: Path) -> None:
    shutil.copyfile(
        run / "predictions" / SIMULATED / "chunk-00000.parquet", run / "predictions" / DEPLOYED / "chunk-00000.parquet"
    )

    assert {"files", "predictions"} <= {check.what for check in stale(run, host)}


def test_a_plugin_whose_sources_changed_is_stale(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site" / "acme_runtime"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    source = (
        "from runtimes.pretending import Emulator\nfrom zoo_core.hookspecs import hookimpl\n\n"
        "class Acme(Emulator):\n    name = 'acme'\n\n"
        "@hookimpl\ndef zoo_runtimes():\n    return [Acme()]\n"
    )
    (folder / "hooks.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    host = host_with()
    host.register(importlib.import_module("acme_runtime.hooks"), "acme_runtime")
    run = evaluate_on(place, tmp_path / "run", host=host, runtimes=["acme"]).run_dir
    assert stale(run, host) == []

    (folder / "hooks.py").write_text(f"{source}# corrected\n")

    (found,) = stale(run, host)
    assert (found.what, found.message) == ("runtime acme", "the sources of plugin acme_runtime have changed since")
    for name in ("acme_runtime", "acme_runtime.hooks"):
        sys.modules.pop(name)


# ------------------------------------------------------------------ reproduce


def test_a_run_with_a_runtime_is_reproduced(host: PluginHost, deployed: Path, tmp_path: Path) -> None:
    found = api.reproduce(deployed, out=tmp_path / "again", host=host)

    assert found.identical
    assert [stage.name for stage in found.stages] == [*STAGES, DEPLOYED]
    assert found.conditions == []


def test_a_fallback_that_was_allowed_is_allowed_again(place: Path, tmp_path: Path) -> None:
    falls_back = pretending.FallsBack()
    run = evaluate_on(place, tmp_path / "run", falls_back, allow_fallback=True).run_dir

    assert api.reproduce(run, out=tmp_path / "again", host=host_with(falls_back)).identical


def test_another_version_of_a_runtime_is_a_condition_of_the_repetition(deployed: Path, tmp_path: Path) -> None:
    newer = pretending.Emulator()
    newer.version = "2.0"

    found = api.reproduce(deployed, out=tmp_path / "again", host=host_with(newer))

    assert found.identical
    assert "runtime emulator: version 2.0 instead of 1.0" in found.conditions


def test_a_run_whose_runtime_is_missing_is_not_reproduced(deployed: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnsupportedError, match="There is no runtime 'emulator'"):
        api.reproduce(deployed, out=tmp_path / "again", host=host_with())
    assert not (tmp_path / "again").exists()


# ------------------------------------------------------------------ report


def test_the_report_shows_what_the_runtime_made_of_the_network(host: PluginHost, deployed: Path) -> None:
    page = render_report(deployed, host=host)

    assert "emulator 1.0" in page
    assert f"Share of the integers of {DEPLOYED} that differ from the simulation&#39;s" in page
    assert f"Parity of {DEPLOYED} with the simulation" in page
    assert "/pool/Conv" in page
    assert "an emulator, whose times and memory are not those of the device" in page


def test_the_report_of_a_run_without_runtimes_does_not_mention_them(place: Path, tmp_path: Path) -> None:
    run = evaluate_on(place, tmp_path / "run").run_dir

    page = render_report(run, host=host_with())

    assert "with the simulation" not in page


Damage = Callable[[dict[str, Any]], object]


DAMAGES: dict[str, Damage] = {
    "not measured": lambda one: one.update(parity=None, cost=None),
    "first layer gone": lambda one: one["parity"].update(first_over_threshold="gone"),
    "no layers": lambda one: one["parity"].update(layers=[]),
    "text for a number": lambda one: one["parity"]["layers"][0].update(max_lsb="many"),
    "number for a list": lambda one: one.update(nodes=3),
    "no coverage": lambda one: one.update(integer_coverage=None),
    "no runtime": lambda one: one.pop("runtime"),
    "markup": lambda one: one.update(runtime="<script>alert(1)</script>"),
    "markup of an output": lambda one: one["parity"].update(
        outputs=[{"name": "<script>alert(1)</script>", "sqnr_db": None, "cosine": None}]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_deployment_leaves_a_page_that_can_be_read(host: PluginHost, run: Path, damage: Damage) -> None:
    content = json.loads((run / "run.json").read_text())
    damage(content["stages"][DEPLOYED]["deployment"])
    (run / "run.json").write_text(json.dumps(content))

    page = render_report(run, host=host)

    assert "optimized_w8a8" in page
    assert "<script>alert(1)" not in page


def test_a_damaged_deployment_is_a_gap_of_its_stage_only(run: Path) -> None:
    edit_json(run / "run.json", lambda content: content["stages"][DEPLOYED]["deployment"].update(model_bytes="many"))
    gaps: list[str] = []

    found = read_leniently(run / "run.json", gaps, ReadableRecord)

    assert found is not None
    assert list(found.stages) == list(STAGES)
    assert len(gaps) == 1
    assert f"stages.{DEPLOYED} is left out: deployment.model_bytes" in gaps[0]


def test_a_record_of_schema_3_has_no_deployments(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    content["schema"] = 3
    for part in (content["request"], content["settings"], *content["stages"].values()):
        part["backend"] = part.pop("runtime")
    for stage in content["stages"].values():
        del stage["runtime_reason"], stage["deployment"]
    (run / "run.json").write_text(json.dumps(content))
    gaps: list[str] = []

    found = read_leniently(run / "run.json", gaps, ReadableRecord)

    assert found is not None
    assert gaps == []
    assert all(stage.deployment is None for stage in found.stages.values())
