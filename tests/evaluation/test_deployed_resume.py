"""Runs with runtimes that stop somewhere and are resumed, and runs that are resumed with another runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deployed_runs import DEPLOYED, STAGES, chunks, deploy, evaluate_on, host_with, write_place
from evaluation.interrupted import Interrupting, record
from runtimes import pretending
from toy_detector import data
from zoo_core import api
from zoo_core.errors import RecipeError, RunCrashError, RunInterruptedError, RuntimeUnsupportedError
from zoo_core.evaluation import recorder
from zoo_core.evaluation.deploying import Deployment
from zoo_core.evaluation.result import EvaluationResult
from zoo_core.evaluation.run import _Run
from zoo_core.plugins import PluginHost

PLACES = {
    "before the network is loaded": (Deployment, "load"),
    "before the layers are compared": (Deployment, "parity"),
    "before the cost is measured": (Deployment, "cost"),
    "before the cost is recorded": (recorder.Recorder, "add_cost"),
    "before the changes are computed": (_Run, "_finish"),
    "before the end is recorded": (recorder.Recorder, "complete"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_place(tmp_path_factory.mktemp("resumed"))
    data.write(root / "grid", num_test=70)  # two chunks
    return root


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """An uninterrupted run; do not write into it."""
    return evaluate_on(place, place / "whole", pretending.Emulator()).run_dir


def resume(run: Path, host: PluginHost | None = None) -> EvaluationResult:
    return api.resume(run, host=host or host_with(pretending.Emulator()), report=False)


def results(run: Path) -> dict[str, Any]:
    return {
        "metrics.json": (run / "metrics.json").read_bytes(),
        **{stage: chunks(run, stage) for stage in (*STAGES, DEPLOYED)},
    }


def stop_at(where: str, error: BaseException, patch: pytest.MonkeyPatch) -> None:
    def stopping(*_arguments: object, **_options: object) -> None:
        raise error

    patch.setattr(*PLACES[where], stopping)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    ("error", "raised"),
    [(KeyboardInterrupt(), RunInterruptedError), (ValueError("planted"), RunCrashError)],
    ids=["interrupted", "failed"],
)
def test_a_run_that_stopped_at_a_runtime_ends_with_the_bytes_of_one_that_did_not(
    where: str, error: BaseException, raised: type[BaseException], place: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(where, error, patch)
        with pytest.raises(raised):
            evaluate_on(place, tmp_path / "run", pretending.Emulator())
    assert record(tmp_path / "run")["status"] in ("interrupted", "failed")

    found = resume(tmp_path / "run").record

    assert results(tmp_path / "run") == results(whole)
    assert found.status == "complete"
    assert found.stages[DEPLOYED].num_images_timed == 70  # what was measured before the stop is kept


@pytest.mark.parametrize(("task", "nth"), [("fp32", 3), ("optimized_w8a8", 66), (DEPLOYED, 3), (DEPLOYED, 66)])
def test_a_run_that_stopped_in_its_predictions_ends_with_the_bytes_of_one_that_did_not(
    task: str, nth: int, place: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunInterruptedError):
        evaluate_on(place, tmp_path / "run", pretending.Emulator(), reporter=Interrupting(task, nth))

    resume(tmp_path / "run")

    assert results(tmp_path / "run") == results(whole)


@pytest.mark.parametrize("where", ["before the network is loaded", "before the cost is measured"])
def test_a_deploy_that_stopped_is_resumed_like_a_run(where: str, place: Path, whole: Path, tmp_path: Path) -> None:
    simulated = evaluate_on(place, tmp_path / "simulated").run_dir
    with pytest.MonkeyPatch.context() as patch:
        stop_at(where, KeyboardInterrupt(), patch)
        with pytest.raises(RunInterruptedError):
            deploy(simulated, tmp_path / "run", pretending.Emulator())

    resume(tmp_path / "run")

    assert results(tmp_path / "run") == results(whole)


def test_a_deploy_that_was_killed_right_after_it_copied_the_run_is_resumed(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    simulated = evaluate_on(place, tmp_path / "simulated").run_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo_core.evaluation.extending.continue_run", lambda *_arguments: None)
        deploy(simulated, tmp_path / "run", pretending.Emulator())

    resume(tmp_path / "run")

    assert results(tmp_path / "run") == results(whole)


def test_a_runtime_that_fails_at_once_can_be_repaired_and_resumed(place: Path, whole: Path, tmp_path: Path) -> None:
    """The plugin is corrected: another runtime of the same name."""

    class Repaired(pretending.Emulator):
        name = "broken"

    with pytest.raises(RunCrashError, match="the handle is closed"):
        evaluate_on(place, tmp_path / "run", pretending.Broken())

    found = resume(tmp_path / "run", host_with(Repaired()))

    assert found.record.status == "complete"
    assert found.stages["optimized_w8a8@broken"].scores == found.stages["optimized_w8a8"].scores


def test_a_stage_that_another_version_of_the_runtime_began_is_started_again(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterruptedError):
        evaluate_on(place, tmp_path / "run", pretending.Emulator(), reporter=Interrupting(DEPLOYED, 66))
    began = chunks(tmp_path / "run", DEPLOYED)
    newer = pretending.Emulator()
    newer.version = "2.0"

    found = resume(tmp_path / "run", host_with(newer)).record

    assert len(began) == 1
    assert began[0] not in chunks(tmp_path / "run", DEPLOYED)
    assert found.runtime_versions == {"emulator": "2.0"}
    assert any(text.startswith(f"{DEPLOYED}: the resumed run computed another network") for text in found.warnings)


def test_a_complete_run_is_resumed_without_its_runtime(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")

    assert resume(run, host_with()).record.status == "complete"


def test_a_measured_runtime_is_not_needed_to_resume_what_follows_it(place: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at("before the end is recorded", KeyboardInterrupt(), patch)
        with pytest.raises(RunInterruptedError):
            evaluate_on(place, tmp_path / "run", pretending.Emulator())

    resume(tmp_path / "run", host_with())

    assert results(tmp_path / "run") == results(whole)


def test_a_damaged_chunk_of_a_runtime_that_is_gone_says_so(place: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at("before the end is recorded", KeyboardInterrupt(), patch)
        with pytest.raises(RunInterruptedError):
            evaluate_on(place, tmp_path / "run", pretending.Emulator())
    next(tmp_path.glob(f"run/predictions/{DEPLOYED}/*")).unlink()

    with pytest.raises(RuntimeUnsupportedError, match="There is no runtime 'emulator'"):
        resume(tmp_path / "run", host_with())


def test_a_runtime_that_is_gone_before_its_stage_stops_the_resumed_run_at_once(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterruptedError):
        evaluate_on(place, tmp_path / "run", pretending.Emulator(), reporter=Interrupting("fp32", 3))
    before = (tmp_path / "run" / "run.json").read_bytes()

    with pytest.raises(RuntimeUnsupportedError, match="There is no runtime 'emulator'"):
        resume(tmp_path / "run", host_with())
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["model.onnx", "encodings.json"])
def test_a_quantized_network_that_was_damaged_meanwhile_is_written_again(
    name: str, place: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at("before the network is loaded", KeyboardInterrupt(), patch)
        with pytest.raises(RunInterruptedError):
            evaluate_on(place, tmp_path / "run", pretending.Emulator())
    (tmp_path / "run" / "quantized" / name).write_bytes(b"{}")

    resume(tmp_path / "run")

    assert results(tmp_path / "run") == results(whole)
    before, after = ((run / "quantized" / name).read_bytes() for run in (whole, tmp_path / "run"))
    assert before == after


def test_the_saved_network_keeps_its_encodings_where_the_simulation_is_an_alias(place: Path, tmp_path: Path) -> None:
    """The recipe changes nothing, so w8a8 has the predictions; its network is saved for optimized_w8a8."""
    stages = ["fp32", "w8a8", "optimized_w8a8"]
    with pytest.MonkeyPatch.context() as patch:
        stop_at("before the network is loaded", KeyboardInterrupt(), patch)
        with pytest.raises(RunInterruptedError):
            evaluate_on(place, tmp_path / "run", pretending.Emulator(), stages=stages)
    model = tmp_path / "run" / "quantized" / "model.onnx"
    before = model.read_bytes()
    shutil.rmtree(model.parent)

    found = resume(tmp_path / "run")

    assert model.read_bytes() == before
    assert found.stages[DEPLOYED].simulation is not None


def test_a_run_whose_record_forgets_a_runtime_is_refused(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    content = record(run)
    content["request"]["runtimes"] = []
    content["status"] = "interrupted"
    (run / "run.json").write_text(json.dumps(content))
    (run / "metrics.json").unlink()

    with pytest.raises(RecipeError, match="No runtime 'emulator' was requested"):
        resume(run)
