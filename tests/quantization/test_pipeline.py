"""A recipe is checked whole before anything runs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from zoo_core.datatypes import Recipe, RecipeStep, StepResult, StepSpec
from zoo_core.errors import RecipeError
from zoo_core.quantization.pipeline import plan
from zoo_core.quantization.steps.builtin import BUILTIN_STEPS
from zoo_core.recipes import shipped_configs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "aimet_config.json"
    path.write_bytes(shipped_configs()["per_tensor_asymmetric"].read_bytes())
    return path


def recipe(folder: Path, *steps: tuple[str, dict[str, Any]]) -> Recipe:
    specs = tuple(StepSpec(step=name, params=params) for name, params in steps)
    return Recipe(name="r", description="", steps=specs, source=folder / "r.yaml", sha256="0")


QUANTSIM = ("quantsim", {"config_file": "aimet_config.json"})


def test_a_plan_holds_the_steps_in_order_and_the_bit_widths(config_file: Path) -> None:
    checked = plan(
        recipe(
            config_file.parent,
            ("fold_batch_norms", {}),
            ("adaround", {"num_iterations": 5}),
            ("quantsim", {"param_bw": 4, "output_bw": 16, "config_file": "aimet_config.json"}),
        )
    )
    assert [bound.step.name for bound in checked.steps] == ["fold_batch_norms", "adaround"]
    assert checked.steps[1].params.model_dump()["num_iterations"] == 5
    assert checked.tag == "w4a16"
    assert checked.quant.config_file == config_file


def test_all_problems_of_a_recipe_are_reported_together(tmp_path: Path) -> None:
    broken = recipe(
        tmp_path,
        ("fold_batchnorms", {}),
        ("relu6", {"policy": "drop"}),
        ("adaround", {"iterations": 3, "warm_start": 1.5}),
        ("quantsim", {"param_bw": 8, "config_file": "nowhere.json"}),
    )
    with pytest.raises(RecipeError) as caught:
        plan(broken)
    fact = caught.value.fact
    assert "steps[0] fold_batchnorms: unknown step; the closest is 'fold_batch_norms'" in fact
    assert "steps[1] relu6.policy: 'drop': Input should be 'keep', 'replace' or 'per_channel_clip'" in fact
    assert "steps[2] adaround.iterations: unknown parameter; the closest is 'num_iterations'" in fact
    assert "steps[2] adaround.warm_start: 1.5: Input should be less than 1" in fact
    assert f"steps[3] quantsim.config_file: {tmp_path / 'nowhere.json'} does not exist" in fact


def test_a_missing_parameter_says_what_it_is_for(config_file: Path) -> None:
    with pytest.raises(RecipeError, match=r"steps\[0\] relu6.policy: missing; keep ReLU6, replace it"):
        plan(recipe(config_file.parent, ("relu6", {}), QUANTSIM))


def test_a_configuration_that_is_not_json_is_refused(config_file: Path) -> None:
    config_file.write_text("{", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"aimet_config.json is not readable JSON: Expecting property name"):
        plan(recipe(config_file.parent, QUANTSIM))


def test_a_recipe_without_quantsim_is_refused(config_file: Path) -> None:
    with pytest.raises(RecipeError, match="the recipe has 0 quantsim steps"):
        plan(recipe(config_file.parent, ("fold_batch_norms", {})))


def test_a_second_quantsim_is_refused(config_file: Path) -> None:
    with pytest.raises(RecipeError, match="the recipe has 2 quantsim steps"):
        plan(recipe(config_file.parent, QUANTSIM, QUANTSIM))


def test_a_step_after_quantsim_is_refused(config_file: Path) -> None:
    with pytest.raises(RecipeError, match=r"steps\[0\] quantsim is not last: 'fold_batch_norms' follows it"):
        plan(recipe(config_file.parent, QUANTSIM, ("fold_batch_norms", {})))


def test_a_step_that_would_undo_rounded_weights_is_refused(config_file: Path) -> None:
    with pytest.raises(RecipeError, match=r"steps\[1\] fold_batch_norms: follows adaround"):
        plan(recipe(config_file.parent, ("adaround", {}), ("fold_batch_norms", {}), QUANTSIM))


class NoParams(BaseModel):
    pass


def _prune(network: Any, params: Any, context: Any) -> StepResult:
    return StepResult(result=network, effect={}, summary="")


def test_a_plugins_step_can_be_named(config_file: Path) -> None:
    extra = RecipeStep(name="prune", params=NoParams, apply=_prune)
    checked = plan(recipe(config_file.parent, ("prune", {}), QUANTSIM), [extra])
    assert checked.steps[0].step is extra


@pytest.mark.parametrize("name", ["relu6", "quantsim"])
def test_a_name_claimed_twice_names_both_claims(config_file: Path, name: str) -> None:
    extra = RecipeStep(name=name, params=NoParams, apply=_prune)
    with pytest.raises(RecipeError, match=rf"{name!r} is claimed twice: zoo_core.* and .*_prune"):
        plan(recipe(config_file.parent, QUANTSIM), [extra])


def test_every_parameter_of_every_step_is_described() -> None:
    for step in BUILTIN_STEPS:
        for name, field in step.params.model_fields.items():
            assert field.description, f"{step.name}.{name}"


def test_loading_aimet_closes_no_handler_of_other_libraries() -> None:
    code = (
        "import logging, io; stream = io.StringIO(); closed = []\n"
        "class Handler(logging.StreamHandler):\n"
        "    def close(self): closed.append(self)\n"
        "handler = Handler(stream); logging.getLogger('other').addHandler(handler)\n"
        "from zoo_core.quantization.aimet import library; library.load()\n"
        "logging.getLogger('other').warning('still here'); assert not closed\n"
        "assert stream.getvalue() == 'still here\\n', stream.getvalue()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr


def test_a_recipe_is_checked_without_loading_torch_or_aimet() -> None:
    code = (
        "import sys, zoo_core.quantization.pipeline; "
        "sys.exit(', '.join(m for m in ('torch', 'aimet_torch') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "words"), [("[]", "is not a JSON object"), ("[" * 100_000, "readable JSON"), ("{", "readable JSON")]
)
def test_a_configuration_that_is_not_a_json_object_is_refused(config_file: Path, text: str, words: str) -> None:
    config_file.write_text(text)
    with pytest.raises(RecipeError, match=words):
        plan(recipe(config_file.parent, QUANTSIM))
