"""A finished run on a real MLflow server, and servers that fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.model import untrained
from typed_records import HEADLINE, STAGE, metrics_record, run_record
from zoo_core import api, artifacts
from zoo_core.errors import PluginError
from zoo_core.evaluation.result import EvaluationResult
from zoo_core.plugins import PluginHost
from zoo_core.runs.parts import ScoreRecord
from zoo_core.runs.record import MetricsRecord, RunRecord, read_metrics, read_record
from zoo_mlflow_tracker import hooks as mlflow_tracker
from zoo_mlflow_tracker.tracking import log_run, our_settings, parameters, stage_metrics, tags


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def run_toy(folder: Path, stages: str) -> EvaluationResult:
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    host.register(mlflow_tracker, "mlflow_tracker")
    weights = folder / "toy.safetensors"
    artifacts.save_state_dict(weights, untrained(2).state_dict(), {})
    root = data.write(folder / "grid")
    return api.evaluate(
        "toy_squares", host=host, data=root, checkpoint=weights, out=folder / "run", stages=stages, limit=8
    )


def recorded(result: EvaluationResult) -> tuple[RunRecord, MetricsRecord]:
    metrics = read_metrics(result.run_dir)
    assert metrics is not None
    return read_record(result.run_dir), metrics


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server with its SQLite backend on loopback."""
    pytest.importorskip("mlflow.server", reason="mlflow is not installed (extra mlflow-server)")
    folder = tmp_path_factory.mktemp("mlflow")
    for _ in range(3):  # another process may take the port in between
        port = free_port()
        log = folder / f"{port}.log"
        with log.open("w") as file:
            process = subprocess.Popen(  # noqa: S603  # our own interpreter
                [
                    *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                    *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/runs.db"),
                    *("--artifacts-destination", str(folder / "artifacts")),
                ],
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            if answers(f"http://127.0.0.1:{port}", process):
                yield f"http://127.0.0.1:{port}"
                return
        finally:
            stop(process)
    pytest.fail(f"The server did not start:\n{log.read_text()[-2000:]}")


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait for the server as long as it lives; a machine under load may need minutes."""
    for _ in range(1200):
        if process.poll() is not None:
            return False
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return True
        except requests.RequestException:
            pass
        time.sleep(0.25)
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the workers it started: they share its process group."""
    if process.poll() is None:
        os.killpg(process.pid, 15)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # mlflow's own imports
def test_a_finished_run_is_on_the_server(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    result = run_toy(tmp_path, "fp32,w8a8")
    assert capsys.readouterr().out == ""  # where a command's own results go
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("zoo-eval")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])

    record, metrics = recorded(result)
    assert not any("mlflow" in text for text in record.warnings)
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == "toy_squares"
    assert run.data.params["dataset.fingerprint"] == metrics.fingerprint
    assert run.data.params["recipe.sha256"] == record.recipe.sha256
    assert run.data.params["step.0.fold_batch_norms"] == "default"
    for stage in ("fp32", "w8a8"):
        measured = metrics.stages[stage]
        for protocol in ("coco", "voc07_11pt/devkit"):
            assert run.data.metrics[f"{stage}/{protocol}/map"] == measured.scores[protocol].headline
        assert run.data.metrics[f"{stage}/drop_points"] == measured.drop_points
    assert "Limited run" in run.data.tags["mlflow.note.content"]
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"report.html", "metrics.json", "run.json"}
    page = client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
    assert Path(page).read_bytes() == (result.run_dir / "report.html").read_bytes()

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    log_run(server, result.run_dir, record, metrics)
    another = client.get_experiment_by_name("another")
    assert another is not None
    assert len(client.search_runs([another.experiment_id])) == 1


@pytest.mark.filterwarnings("ignore")  # mlflow's own imports
def test_a_dead_server_is_a_warning_and_the_number_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = run_toy(tmp_path, "fp32")
    record, _ = recorded(result)
    (text,) = [text for text in record.warnings if "mlflow_tracker" in text]

    assert record.status == "complete"
    assert "The MLflow server at http://127.0.0.1:" in text
    assert "secret" not in text


@pytest.mark.filterwarnings("ignore")  # mlflow's own imports
def test_a_server_that_never_answers_does_not_hold_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed (extra mlflow)")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(PluginError, match="did not take the run"):
            log_run(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, run_record(), metrics_record())


def test_patience_with_a_server_is_bounded_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")
    with our_settings():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "300"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_without_a_server_named_nothing_happens(tmp_path: Path) -> None:
    mlflow_tracker.zoo_evaluation_finished(tmp_path, run_record(), None)


def test_undefined_values_are_left_out_and_a_twin_has_the_cost_of_its_stage() -> None:
    record = run_record(stages={"fp32": replace(STAGE, images_per_second=2.0)})

    assert stage_metrics(record, metrics_record()) == {
        f"fp32/{HEADLINE}/map": 0.75,
        "fp32/drop_points": 0.0,
        "fp32/images_per_second": 2.0,
        "fp32/weights_bytes": 12_000_000.0,
        f"w8a8/{HEADLINE}/map": 0.5,
        "w8a8/drop_points": 25.0,
        f"optimized_fp32/{HEADLINE}/map": 0.75,
        "optimized_fp32/drop_points": 0.0,
        "optimized_fp32/images_per_second": 2.0,
        "optimized_fp32/weights_bytes": 12_000_000.0,
    }
    undefined = ScoreRecord(values={"map": None}, per_class={})
    stages = metrics_record().stages
    fp32 = replace(stages["fp32"], scores={"coco": undefined}, drop_points=None)
    assert stage_metrics(run_record(stages={}), metrics_record(stages={"fp32": fp32})) == {}
    assert stage_metrics(run_record(), None) == {}


def test_parameters_hold_every_step_and_no_long_text() -> None:
    steps = ({"step": "adaround", "engine": "fast"}, {"step": "quantsim"})
    values = parameters(
        run_record(recipe=replace(run_record().recipe, name=600 * "r", steps=steps), checkpoint=None, calibration=None)
    )

    assert values["step.0.adaround.engine"] == "fast"
    assert values["step.1.quantsim"] == "default"
    assert values["recipe.name"] == 500 * "r"
    assert values["dataset.fingerprint"] == 64 * "f"
    assert "checkpoint_sha256" not in values
    assert not any(name.startswith("calibration") for name in values)


def test_tags_name_the_commit_and_show_warnings_first() -> None:
    assert tags(run_record(git=None)) == {"zoo_eval.version": "0.0.test", "zoo_eval.status": "complete"}
    limited = tags(run_record(warnings=("Limited run.", "Another.")))
    assert limited["zoo_eval.git_commit"] == 40 * "d"
    assert limited["mlflow.note.content"] == "Limited run.\n\nAnother."
