from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.errors import RunError
from zoo_core.evaluation.replay import recorded_request
from zoo_core.evaluation.run import evaluate_request
from zoo_core.plugins import PluginHost
from zoo_core.recipes import load_recipe, shipped_configs
from zoo_core.results.stored import open_run
from zoo_core.runs.record import adapter
from zoo_core.runs.request import EvaluationRequest

HINTS = get_type_hints(EvaluationRequest)
ABSOLUTE_PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1).map(
    lambda name: Path("/", name)
)


@given(
    st.fixed_dictionaries(
        {"model": st.text()},
        optional={
            own.name: ABSOLUTE_PATHS if HINTS[own.name] == Path | None else st.from_type(HINTS[own.name])
            for own in dataclasses.fields(EvaluationRequest)
            if own.name != "model"
        },
    )
)
def test_a_request_survives_json(options: dict[str, Any]) -> None:
    request = EvaluationRequest(**options)

    assert adapter(EvaluationRequest).validate_json(json.dumps(request.as_json())) == request


@pytest.fixture
def everything(grid: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationRequest:
    """A request with every option given, with files of its own and paths relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    recipe = Path(__file__).parents[1] / "toy_detector" / "recipes" / "w8a8_toy.yaml"
    (tmp_path / "own.yaml").write_text(recipe.read_text().replace("name: ", "name: own_"))
    named = load_recipe(recipe).steps[-1].params["config_file"]
    shutil.copyfile(shipped_configs()[str(named)], tmp_path / "aimet_config.json")
    (tmp_path / "own.yaml").write_text((tmp_path / "own.yaml").read_text().replace(str(named), "aimet_config.json"))
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    (tmp_path / "ids.txt").write_text("test_004\ntest_002\ntest_003\n")
    return EvaluationRequest(
        model="toy_squares",
        data=Path(grid.name),
        checkpoint=Path(weights.name),
        labels=Path("labels.txt"),
        recipe="own.yaml",
        settings=("round_weights.step_size=0.01",),
        stages="w8a8,optimized_w8a8",
        split="test",
        ids_file=Path("ids.txt"),
        limit=2,
        calibration_split="trainval",
        calibration_size=5,
        batch_size=2,
        workers=1,
        device="cpu",
        seed=7,
        out=Path("first"),
        offline=True,
        command=("zoo-eval", "run"),
    )


def results(run: Path) -> dict[str, bytes]:
    files = [run / "metrics.json", *run.glob("predictions/*/*.parquet"), *run.glob("lines/*/*")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def test_a_run_repeats_from_its_record_when_the_files_it_was_given_are_gone(
    everything: EvaluationRequest, host: PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate_request(everything, host=host).run_dir
    for name in ("own.yaml", "aimet_config.json", "labels.txt", "ids.txt"):
        (tmp_path / name).unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    again = recorded_request(first, kept=True)
    second = evaluate_request(dataclasses.replace(again, out=tmp_path / "second"), host=host).run_dir

    assert results(first) == results(second)
    assert len(results(first)) == 5
    steps = [json.loads((run / "run.json").read_text())["recipe"]["steps"] for run in (first, second)]
    assert steps[0] == steps[1]
    assert open_run(second).image_ids == ("test_004", "test_002")


def test_the_request_as_given_names_the_files_that_were_given(
    everything: EvaluationRequest, host: PluginHost, tmp_path: Path
) -> None:
    run = evaluate_request(everything, host=host).run_dir

    found = recorded_request(run)

    expected = dataclasses.replace(
        everything,
        data=tmp_path / "grid",
        checkpoint=tmp_path / "toy.safetensors",
        labels=tmp_path / "labels.txt",
        recipe=str(tmp_path / "own.yaml"),
        ids_file=run / "image_ids.txt",
        out=None,
        command=(),
    )
    assert found == expected


def test_what_was_left_to_a_default_is_named(host: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> None:
    request = EvaluationRequest(model="toy_detector", data=grid, checkpoint=weights, out=tmp_path / "run")
    run = evaluate_request(request, host=host).run_dir

    found = recorded_request(run)

    assert (found.model, found.recipe, found.split, found.calibration_split) == (
        "toy_squares",
        "w8a8_toy",
        "test",
        "trainval",
    )
    assert found.stages == "fp32,w8a8,optimized_fp32,optimized_w8a8"
    assert (found.batch_size, found.device, found.ids_file) == (1, "cpu", None)


@pytest.mark.parametrize("key", ["request", "settings", "recipe", "dataset", "model"])
def test_a_record_that_lacks_something_is_refused_by_name(
    key: str, host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    request = EvaluationRequest(model="toy_squares", data=grid, checkpoint=weights, out=tmp_path / "run", stages="fp32")
    run = evaluate_request(request, host=host).run_dir
    record = json.loads((run / "run.json").read_text())
    del record[key]
    (run / "run.json").write_text(json.dumps(record))

    with pytest.raises(RunError, match=rf"run\.json is not a valid record: {key}: Field required"):
        recorded_request(run)
