"""Stages of the exported network: their rows, their record, their failures, and the runs that are extended by them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployed_runs import (
    DEPLOYED,
    SIMULATED,
    STAGES,
    chunks,
    contents,
    deploy,
    deployment_of,
    evaluate_on,
    host_with,
    write_place,
)
from evaluation.interrupted import record
from runtimes import pretending
from zoo_core import api, artifacts, inference
from zoo_core.datatypes import Runtime
from zoo_core.errors import DataError, RecipeError, RunCrashError, RunError, RuntimeUnsupportedError
from zoo_core.evaluation.request import SilentReporter
from zoo_core.evaluation.result import EvaluationResult
from zoo_core.quantization import pipeline
from zoo_core.runs.binding import stage_binding
from zoo_core.runs.record import read_record

Evaluate = Callable[..., EvaluationResult]


class Listening(SilentReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp("deployed"))


@pytest.fixture
def evaluate(place: Path, tmp_path: Path) -> Evaluate:
    """Runs the toy on runtimes into the folder ``name``."""

    def run(*runtimes: Runtime, name: str = "run", **options: Any) -> EvaluationResult:
        return evaluate_on(place, tmp_path / name, *runtimes, **options)

    return run


@pytest.fixture(scope="module")
def simulated(place: Path) -> Path:
    """A run without runtimes; do not write into it."""
    return evaluate_on(place, place / "simulated").run_dir


# ------------------------------------------------------------------ rows and records


def test_a_runtime_adds_a_row_that_is_compared_with_the_simulation_and_with_fp32(evaluate: Evaluate) -> None:
    result = evaluate(pretending.Emulator())

    assert list(result.stages) == [*STAGES, DEPLOYED]
    row = result.stages[DEPLOYED]
    assert (row.quantized, row.num_images, row.same_as) == (True, 12, None)
    assert row.scores == result.stages[SIMULATED].scores  # the toy computes no sum that rounds another way
    assert row.simulation is not None
    assert (row.simulation.stage, row.simulation.num_images_changed) == (SIMULATED, 0)
    assert row.simulation.counts["kept"] == 22
    assert row.change is not None
    assert row.drop_points == pytest.approx(result.stages[SIMULATED].drop_points)
    assert all(result.stages[name].simulation is None for name in STAGES)
    assert {len(list(result.run_dir.glob(f"lines/{name}/*"))) for name in result.stages} == {1}


def test_the_record_says_what_the_runtime_executed_and_how(evaluate: Evaluate) -> None:
    result = evaluate(pretending.Emulator())

    own = result.record.stages[DEPLOYED]
    deployment = own.deployment
    assert deployment is not None
    assert (own.runtime, own.batch_size, own.num_images_timed) == ("emulator", 1, 12)
    model = result.run_dir / "quantized" / "model.onnx"
    assert deployment.model_sha256 == artifacts.sha256_of(model)
    assert deployment.model_bytes == own.weights_bytes == model.stat().st_size
    assert (deployment.runtime, deployment.version, deployment.emulated) == ("emulator", "1.0", True)
    assert deployment.source is not None
    assert deployment.source.sha256 is not None
    assert deployment.integer_coverage is not None
    assert 0 < deployment.integer_coverage < 1
    assert [(node.name, node.precision) for node in deployment.nodes] == [("/pool/Conv", "float")]
    assert deployment.parity is not None
    assert deployment.parity.images == tuple(f"test_00{index}" for index in range(4))
    assert [layer.name for layer in deployment.parity.layers] == ["clip", "head"]
    assert deployment.parity.first_over_threshold is None
    assert read_record(result.run_dir) == result.record
    bindings = {stage_binding(result.record, name) for name in result.stages}
    assert len(bindings) == 3


def test_an_emulated_runtime_has_no_latency_and_no_memory(evaluate: Evaluate) -> None:
    result = evaluate(pretending.Emulator())

    cost = deployment_of(result).cost
    assert cost is not None
    assert (cost.latency, cost.peak_rss_bytes, cost.float_peak_rss_bytes) == ((), None, None)
    content = result.runtimes()["emulator"]
    assert (content["latency_ms"], content["latency"], content["peak_rss_bytes"]) == (None, [], None)


def test_onnx_runtime_has_latency_and_memory_beside_those_of_fp32(evaluate: Evaluate) -> None:
    result = evaluate(host=host_with(), runtimes=["onnxruntime"])

    deployment = deployment_of(result, "optimized_w8a8@onnxruntime")
    assert deployment.source is None  # it is part of zoo-eval
    assert deployment.cost is not None
    first = deployment.cost.latency[0]
    assert first.num_threads == 1
    assert 0 < first.min_ms <= first.p50_ms <= first.p90_ms <= first.max_ms
    assert first.float_p50_ms is not None
    assert deployment.cost.peak_rss_bytes is not None
    assert deployment.cost.float_peak_rss_bytes is not None
    assert result.runtimes()["onnxruntime"]["latency_ms"] == {"p50": first.p50_ms, "p90": first.p90_ms}


def test_a_runtime_that_refuses_the_float_network_is_measured_without_it(evaluate: Evaluate) -> None:
    result = evaluate(pretending.OnlyQuantized())

    cost = deployment_of(result, "optimized_w8a8@only-quantized").cost
    assert cost is not None
    assert cost.latency[0].p50_ms > 0
    assert (cost.latency[0].float_p50_ms, cost.float_peak_rss_bytes) == (None, None)
    assert "fp32 is not measured on only-quantized: " in (result.run_dir / "log.txt").read_text(encoding="utf-8")


def test_a_second_run_gives_the_same_bytes_on_the_runtime(evaluate: Evaluate) -> None:
    runs = [evaluate(pretending.Emulator(), name=name).run_dir for name in ("one", "other")]

    assert len(chunks(runs[0], DEPLOYED)) == 1
    assert chunks(runs[0], DEPLOYED) == chunks(runs[1], DEPLOYED)
    assert chunks(runs[0], DEPLOYED) != chunks(runs[0], SIMULATED)  # bound to their own stage


def test_two_runtimes_are_two_rows_and_one_named_twice_is_one(evaluate: Evaluate) -> None:
    result = evaluate(
        host=host_with(pretending.Emulator(), pretending.Second()), runtimes=["second", "emulator", "second"]
    )

    assert list(result.stages) == [*STAGES, "optimized_w8a8@second", DEPLOYED]
    assert list(result.runtimes()) == ["second", "emulator"]


def test_a_recipe_without_steps_of_its_own_is_compared_with_its_simulation(evaluate: Evaluate) -> None:
    """There optimized_w8a8 is another name of w8a8, which has the predictions."""
    result = evaluate(pretending.Emulator(), stages=["fp32", "w8a8", "optimized_w8a8"])

    assert result.stages["optimized_w8a8"].same_as == "w8a8"
    simulation = result.stages[DEPLOYED].simulation
    assert simulation is not None
    assert simulation.stage == "optimized_w8a8"
    assert simulation.counts["kept"] == 22


@pytest.mark.parametrize("limit", [1, 3])
def test_a_limited_run_compares_the_layers_on_the_images_that_it_has(evaluate: Evaluate, limit: int) -> None:
    result = evaluate(pretending.Emulator(), limit=limit)

    deployment = deployment_of(result)
    assert deployment.parity is not None
    assert len(deployment.parity.images) == result.stages[DEPLOYED].num_images == limit


def test_exported_networks_take_one_image_at_a_time_whatever_the_batch_size(evaluate: Evaluate) -> None:
    result = evaluate(pretending.Emulator(), batch_size=5, batch_sizes=[2])

    sizes = {name: stage.batch_size for name, stage in result.record.stages.items()}
    assert sizes == {"fp32": 5, SIMULATED: 5, DEPLOYED: 1}
    measured = {name: list(stage.batch_sizes) for name, stage in result.record.stages.items()}
    assert measured == {"fp32": ["2"], SIMULATED: ["2"], DEPLOYED: []}


def test_a_runtime_with_wrong_products_is_loaded_with_exact_ones_and_the_record_says_so(evaluate: Evaluate) -> None:
    result = evaluate(pretending.Saturating())

    deployment = deployment_of(result, "optimized_w8a8@saturating")
    assert deployment.remedy is not None
    assert "8-bit products saturate on this processor; saturating is told to avoid" in deployment.remedy
    assert deployment.parity is not None
    assert deployment.parity.first_over_threshold is None


def test_a_layer_over_the_threshold_is_recorded_and_the_run_completes(evaluate: Evaluate) -> None:
    result = evaluate(pretending.WrongLayers())

    deployment = deployment_of(result, "optimized_w8a8@wrong-layers")
    assert deployment.parity is not None
    assert deployment.parity.first_over_threshold == "clip"
    assert deployment.parity.layers[0].max_lsb == 5
    assert result.record.status == "complete"


def test_outputs_that_are_not_a_number_are_counted_and_do_not_break_the_record(evaluate: Evaluate) -> None:
    result = evaluate(pretending.NotANumber())

    own = result.record.stages["optimized_w8a8@nan"]
    assert own.num_nonfinite_images == 12
    assert own.deployment is not None
    assert own.deployment.parity is not None
    assert own.deployment.parity.outputs[0].cosine is None
    assert read_record(result.run_dir).status == "complete"


# ------------------------------------------------------------------ refused before anything runs


def test_a_runtime_that_is_missing_says_what_to_install_and_leaves_nothing(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnsupportedError, match="'missing' cannot be used here: libmissing is not ins") as caught:
        evaluate(pretending.Missing())

    assert caught.value.fix == "pip install libmissing"
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_runtime_that_does_not_exist_suggests_the_closest(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnsupportedError, match="There is no runtime 'onxruntime'; the closest is 'onnxruntime'"):
        evaluate(host=host_with(), runtimes=["onxruntime"])
    assert not (tmp_path / "run").exists()


def test_torch_is_the_simulation_and_no_runtime_of_it(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnsupportedError, match="'torch' computes the simulation itself") as caught:
        evaluate(host=host_with(), runtimes=["torch"])
    assert caught.value.fix == "leave it out of --runtimes."
    assert not (tmp_path / "run").exists()


def test_a_runtime_for_integers_refuses_a_recipe_with_a_float_input(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'integers' needs a quantized model input, and the recipe 'w8a8_only'"):
        evaluate(pretending.TakesIntegers())
    assert not (tmp_path / "run").exists()


def test_a_runtime_for_integers_takes_a_recipe_that_quantizes_the_input(evaluate: Evaluate) -> None:
    result = evaluate(pretending.TakesIntegers(), settings=["quantsim.input=quantized"])

    deployment = deployment_of(result, "optimized_w8a8@integers")
    assert deployment.integer_coverage == 1.0


def test_stages_without_the_simulation_are_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="The stages do not include 'optimized_w8a8', whose network") as caught:
        evaluate(pretending.Emulator(), stages=["fp32", "w8a8"])
    assert caught.value.fix == "add optimized_w8a8 to --stages."
    assert not (tmp_path / "run").exists()


def test_a_deployed_stage_that_is_named_without_its_runtime_says_how_to_ask_for_it(evaluate: Evaluate) -> None:
    with pytest.raises(RecipeError, match="No runtime 'emulator' was requested, so there is no stage") as caught:
        evaluate(host=host_with(pretending.Emulator()), stages=[*STAGES, DEPLOYED])
    assert "--runtimes emulator" in caught.value.fix


# ------------------------------------------------------------------ refused by the runtime


def test_what_the_runtime_does_not_support_is_said_in_its_words_and_the_simulation_stays(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeUnsupportedError, match=r"Node /head/Conv: 'no kernel for Conv\(11\)'") as caught:
        evaluate(pretending.Unsupported())

    assert "at stage 'optimized_w8a8@unsupported'" in caught.value.fact
    assert caught.value.exit_code == 2
    found = record(tmp_path / "run")
    assert found["status"] == "failed"
    assert list(found["stages"]) == list(STAGES)
    assert chunks(tmp_path / "run", SIMULATED)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (pretending.Broken, "ValueError: the handle is closed"),
        (pretending.FailsLater, "ValueError: the device is gone"),
    ],
)
def test_an_error_of_a_runtime_names_its_plugin(evaluate: Evaluate, kind: type[Any], words: str) -> None:
    runtime = kind()
    with pytest.raises(RunCrashError, match=rf"Plugin 'acme' failed in .*runtime '{runtime.name}'.*{words}") as caught:
        evaluate(runtime)
    assert caught.value.exit_code == 3


def test_a_fallback_that_was_not_asked_for_names_the_nodes(evaluate: Evaluate) -> None:
    with pytest.raises(RuntimeUnsupportedError, match=r"7 nodes elsewhere .*: /pool/Conv, .* and 2 more") as caught:
        evaluate(pretending.FallsBack())
    assert "--allow-fallback" in caught.value.fix
    assert caught.value.exit_code == 2


def test_a_fallback_that_is_allowed_is_recorded(evaluate: Evaluate) -> None:
    result = evaluate(pretending.FallsBack(), allow_fallback=True)

    deployment = deployment_of(result, "optimized_w8a8@falls-back")
    assert deployment.allow_fallback
    assert {(node.name, node.device) for node in deployment.nodes if node.elsewhere} >= {("/pool/Conv", "host")}


def test_a_runtime_that_is_wrong_whatever_it_is_told_is_refused(evaluate: Evaluate) -> None:
    with pytest.raises(RuntimeUnsupportedError, match=r"always-wrong 1\.0 computes wrong integers: a pointwise conv"):
        evaluate(pretending.AlwaysWrong())


@pytest.fixture
def unexportable(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: object, **_options: object) -> None:
        raise RunError("torch cannot export ToyNetwork to ONNX: aten::i0e", fix="replace the operation.")

    monkeypatch.setattr("zoo_core.quantization.export.export_qdq", failing)


CANNOT_BE_EXPORTED = r"No runtime can execute the quantized network: .*aten::i0e"


@pytest.mark.usefixtures("unexportable")
def test_a_network_that_cannot_be_exported_says_why_and_says_it_again(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnsupportedError, match=CANNOT_BE_EXPORTED):
        evaluate(pretending.Emulator())
    with pytest.raises(RuntimeUnsupportedError, match=CANNOT_BE_EXPORTED):
        api.resume(tmp_path / "run", host=host_with(pretending.Emulator()))


@pytest.mark.usefixtures("unexportable")
def test_deploy_of_a_run_whose_network_could_not_be_exported_says_why(evaluate: Evaluate, tmp_path: Path) -> None:
    run = evaluate().run_dir

    with pytest.raises(RuntimeUnsupportedError, match=CANNOT_BE_EXPORTED):
        deploy(run, tmp_path / "deployed", pretending.Emulator())


# ------------------------------------------------------------------ deploy RUN


def test_deploy_leaves_the_run_as_it_is_and_gives_the_metrics_of_a_run_with_runtimes(
    evaluate: Evaluate, simulated: Path, tmp_path: Path
) -> None:
    before = contents(simulated)

    result = deploy(simulated, tmp_path / "deployed", pretending.Emulator())

    assert contents(simulated) == before
    whole = evaluate(pretending.Emulator(), name="whole")
    found, expected = (json.loads((run / "metrics.json").read_text()) for run in (result.run_dir, whole.run_dir))
    assert found == expected
    assert list(found["stages"]) == [*STAGES, DEPLOYED]
    for stage in found["stages"]:
        assert chunks(result.run_dir, stage) == chunks(whole.run_dir, stage)
    assert result.record.settings.stages == whole.record.settings.stages


def test_deploy_computes_nothing_but_the_runtime(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = []

    def watched(network: Any, bundle: Any, dataset: Any, ids: Any, store: Any, *rest: Any) -> Any:
        predicted.append(store.directory.name)
        return inference.predict(network, bundle, dataset, ids, store, *rest)

    def forbidden(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a step or a simulation ran")

    monkeypatch.setattr("zoo_core.evaluation.stage_runner.predict", watched)
    monkeypatch.setattr(pipeline, "run_step", forbidden)
    monkeypatch.setattr(pipeline, "simulate", forbidden)

    deploy(simulated, tmp_path / "deployed", pretending.Emulator())

    assert predicted == [DEPLOYED]


def test_deploy_adds_to_a_run_that_has_a_runtime_already(simulated: Path, tmp_path: Path) -> None:
    first = deploy(simulated, tmp_path / "first", pretending.Emulator())

    names = ["second"]
    host = host_with(pretending.Emulator(), pretending.Second())
    second = api.deploy(first.run_dir, runtimes=names, out=tmp_path / "second", report=False, host=host)

    assert list(second.stages) == [*STAGES, DEPLOYED, "optimized_w8a8@second"]
    assert chunks(first.run_dir, DEPLOYED) == chunks(second.run_dir, DEPLOYED)


def test_deploy_takes_a_run_whose_other_runtime_is_not_installed_here(simulated: Path, tmp_path: Path) -> None:
    first = deploy(simulated, tmp_path / "first", pretending.Emulator())

    second = deploy(first.run_dir, tmp_path / "second", pretending.Second())

    assert list(second.stages) == [*STAGES, DEPLOYED, "optimized_w8a8@second"]


def test_deploy_measures_again_where_the_version_of_the_runtime_is_another(simulated: Path, tmp_path: Path) -> None:
    first = deploy(simulated, tmp_path / "first", pretending.Emulator())
    newer = pretending.Emulator()
    newer.version = "2.0"

    second = deploy(first.run_dir, tmp_path / "second", newer)

    assert second.record.runtime_versions == {"emulator": "2.0"}
    assert chunks(first.run_dir, DEPLOYED) != chunks(second.run_dir, DEPLOYED)  # bound to the version


def test_deploy_with_fewer_images_is_a_new_run(simulated: Path, tmp_path: Path) -> None:
    listener = Listening()

    result = deploy(simulated, tmp_path / "deployed", pretending.Emulator(), limit=5, reporter=listener)

    assert {stage.num_images for stage in result.stages.values()} == {5}
    assert list(result.stages) == [*STAGES, DEPLOYED]
    assert any("the run has 12 images, and 5 are asked for" in text for text in listener.said)


def test_deploy_of_a_run_of_another_program_simulates_again_and_says_so(simulated: Path, tmp_path: Path) -> None:
    older = shutil.copytree(simulated, tmp_path / "older")
    content = record(older)
    content["sources"]["toy_detector"]["sha256"] = "0" * 64
    (older / "run.json").write_text(json.dumps(content))
    listener = Listening()

    result = deploy(older, tmp_path / "deployed", pretending.Emulator(), reporter=listener)

    assert any("quantized and simulated again: the program has changed since" in text for text in listener.said)
    assert list(result.stages) == [*STAGES, DEPLOYED]
    assert result.record.resumed == ()


def test_deploy_refuses_options_of_a_model_for_a_run(simulated: Path, tmp_path: Path) -> None:
    for options in ({"settings": ["quantsim.param_bw=4"]}, {"recipe": "w8a8_toy"}, {"calibration_size": 4}):
        with pytest.raises(RecipeError, match="is a run, whose network is quantized already"):
            deploy(simulated, tmp_path / "deployed", pretending.Emulator(), **options)
    assert not (tmp_path / "deployed").exists()


def test_deploy_notices_a_network_that_was_changed_in_the_run(simulated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(simulated, tmp_path / "changed")
    model = run / "quantized" / "model.onnx"
    before = model.read_bytes()
    model.write_bytes(before[:-1] + b"\x00")

    result = deploy(run, tmp_path / "deployed", pretending.Emulator())

    assert (result.run_dir / "quantized" / "model.onnx").read_bytes() == before
    assert list(result.stages) == [*STAGES, DEPLOYED]


def test_deploy_of_an_incomplete_run_says_how_to_finish_it(simulated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(simulated, tmp_path / "half")
    content = record(run)
    content["status"] = "interrupted"
    (run / "run.json").write_text(json.dumps(content))

    with pytest.raises(Exception, match="is not complete: its status is 'interrupted'") as caught:
        deploy(run, tmp_path / "deployed", pretending.Emulator())
    assert "--resume" in str(caught.value)
    assert not (tmp_path / "deployed").exists()


def test_deploy_into_the_run_itself_is_refused(simulated: Path) -> None:
    before = contents(simulated)
    with pytest.raises(Exception, match="exists and is not empty"):
        deploy(simulated, simulated, pretending.Emulator())
    assert contents(simulated) == before


def test_deploy_with_a_runtime_that_is_missing_copies_nothing(simulated: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnsupportedError, match="libmissing"):
        deploy(simulated, tmp_path / "deployed", pretending.Missing())
    assert not (tmp_path / "deployed").exists()


def test_deploy_of_a_run_whose_data_moved_asks_for_them_before_it_copies_anything(
    place: Path, simulated: Path, tmp_path: Path
) -> None:
    grid = shutil.copytree(place / "grid", tmp_path / "grid")
    run = evaluate_on(place, tmp_path / "run", data=grid).run_dir
    moved = grid.rename(tmp_path / "moved")

    with pytest.raises(DataError, match="are no longer at") as caught:
        deploy(run, tmp_path / "deployed", pretending.Emulator())
    assert caught.value.fix == "name their place with --data."
    assert not (tmp_path / "deployed").exists()

    result = deploy(run, tmp_path / "deployed", pretending.Emulator(), data=moved)
    assert list(result.stages) == [*STAGES, DEPLOYED]


@pytest.mark.parametrize("name", ["../../evil", "/etc/hostname", "a\0b", "", "quantized/../../evil"])
def test_deploy_copies_nothing_from_outside_of_the_run(name: str, simulated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(simulated, tmp_path / "in" / "run")
    (tmp_path / "evil").write_text("evil")
    content = record(run)
    content["files"][name] = "0" * 64
    (run / "run.json").write_text(json.dumps(content))
    (tmp_path / "out").mkdir()

    result = deploy(run, tmp_path / "out" / "deployed", pretending.Emulator())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil", "in", "out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["deployed"]
    assert name not in (result.record.files or {})


@pytest.mark.parametrize("kind", ["saved", "published"])
def test_an_optimized_network_that_was_loaded_is_deployed_and_exported(
    kind: str, evaluate: Evaluate, place: Path, simulated: Path, tmp_path: Path
) -> None:
    """``published`` are weights of the ordinary network, which the plugin loads."""
    saved = simulated / "quantized" / "network.safetensors"
    checkpoint = saved if kind == "saved" else place / "toy.safetensors"

    result = evaluate(pretending.Emulator(), optimized_checkpoint=checkpoint)

    assert result.stages[DEPLOYED].scores == result.stages[SIMULATED].scores
    parity = deployment_of(result).parity
    assert parity is not None
    assert parity.first_over_threshold is None
    exported = api.export(result.run_dir, out=tmp_path / "exported", host=host_with())
    assert exported.model.exists()
