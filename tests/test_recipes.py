"""Recipes: files to steps, settings on top, and the hash of what is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo_core.datatypes import Recipe
from zoo_core.errors import RecipeError
from zoo_core.recipes import (
    SHIPPED_RECIPES,
    config_path,
    find_recipe,
    load_recipe,
    override,
    recipe_text,
    shipped_configs,
)

RECIPE = """\
schema: 1
name: w8a8
description: Fold, round, simulate.
steps:
  - step: fold_batch_norms
  - step: adaround
    num_iterations: 10000
    beta_range: [20, 2]
  - step: quantsim
    param_bw: 8
    output_bw: 8
    quant_scheme: tf_enhanced
    config_file: ../aimet_config.json
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write(tmp_path, RECIPE))


def test_a_recipe_file_becomes_its_steps_in_order(recipe: Recipe, tmp_path: Path) -> None:
    assert [spec.step for spec in recipe.steps] == ["fold_batch_norms", "adaround", "quantsim"]
    assert recipe.steps[0].params == {}
    assert recipe.steps[1].params == {"num_iterations": 10000, "beta_range": [20, 2]}
    assert (recipe.name, recipe.description) == ("w8a8", "Fold, round, simulate.")
    assert recipe.source == tmp_path / "recipe.yaml"


def test_a_recipe_is_taken_from_the_first_place_that_has_it_and_from_no_other_file(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder, names in ((own, ("w8a8", "w4a8")), (other, ("w8a8", "w8a16"))):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.yaml").write_text(RECIPE.replace("name: w8a8", f"name: {name}"))
    write(tmp_path, RECIPE)
    places = [own, other]

    assert find_recipe("w8a8", places, model_id="m").source == own / "w8a8.yaml"
    assert find_recipe("w8a16", places, model_id="m").source == other / "w8a16.yaml"
    assert find_recipe("w4a8", [own / "w4a8.yaml"], model_id="m").name == "w4a8"
    for name, words in (
        ("w8a4", "the closest is 'w8a8'|the closest is 'w4a8'"),
        ("../recipe", "m has no recipe '../recipe'"),
    ):
        with pytest.raises(RecipeError, match=words) as caught:
            find_recipe(name, places, model_id="m")
        assert "w4a8, w8a16, w8a8" in str(caught.value)
    with pytest.raises(RecipeError, match=r"m\.recipes names .*gone, which does not exist"):
        find_recipe("w8a8", [tmp_path / "gone"], model_id="m")


@pytest.mark.parametrize(
    ("name", "symmetric", "per_channel", "input_quantized"),
    [
        ("per_tensor_asymmetric", False, False, False),
        ("per_tensor_asymmetric_quantized_input", False, False, True),
        ("per_channel_symmetric", True, True, False),
        ("per_channel_symmetric_quantized_input", True, True, True),
    ],
)
def test_a_shipped_configuration_holds_what_its_name_says(
    name: str, symmetric: bool, per_channel: bool, input_quantized: bool
) -> None:
    content = json.loads(config_path(Path("anywhere/recipe.yaml"), name).read_text())

    assert content["defaults"]["params"]["is_symmetric"] == str(symmetric)
    assert content["defaults"]["per_channel_quantization"] == str(per_channel)
    assert (content["model_input"] == {"is_input_quantized": "True"}) == input_quantized
    assert ("Concat" in content["op_type"]) == (not input_quantized)
    assert content["params"] == {"bias": {"is_quantized": "False"}}
    assert len(shipped_configs()) == 4


def test_a_configuration_is_a_shipped_name_or_a_path_beside_the_recipe(tmp_path: Path) -> None:
    recipe_file = tmp_path / "recipe.yaml"

    assert config_path(recipe_file, "../x.json") == tmp_path / "../x.json"
    with pytest.raises(RecipeError, match="no AIMET configuration 'per_tensor_asym'; the closest is 'per_tensor_asym"):
        config_path(recipe_file, "per_tensor_asym")


def test_every_recipe_in_the_repository_loads() -> None:
    root = Path(__file__).parents[1]
    paths = sorted([*root.glob("plugins/*/recipes/*.yaml"), *SHIPPED_RECIPES.glob("*.yaml")])
    assert paths
    assert [load_recipe(path).name for path in paths] == [path.stem for path in paths]


def test_all_problems_of_a_recipe_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path, "schema: 1\nname: ''\nsteps:\n  - stage: a\n  - step: quantsim\n  - step: quantsim\nstep: 1\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    fact = caught.value.fact
    assert f"{path} has 6 problems" in fact
    assert f'{path}:2: name: expected text, got the text ""' in fact
    assert f"{path}:1: description: the key is missing" in fact
    assert f'{path}:4: steps[0]: {{"stage": "a"}} does not name a step' in fact
    assert f"{path}:6: steps[2]: the step 'quantsim' is repeated" in fact
    assert f"{path}:7: step: no such key; write 'steps'" in fact


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  - step: quantsim", "  - step: more", r"recipe\.yaml:9: steps\[2\]: the last step is 'more'"),
        ("schema: 1", "schema: 9", "the file has schema 9; this zoo-eval reads up to schema 1"),
        ("step: fold_batch_norms", "step: 3", r'5: steps\[0\]: \{"step": 3\} does not name a step'),
        ("step: fold_batch_norms", "step: quantsim", r"steps\[0\]: quantsim comes before other steps"),
        (
            "    param_bw: 8\n",
            "    param_bw: 8\n    param_bw: 4\n",
            r"recipe\.yaml:11: steps\[2\]\.param_bw: the key is repeated",
        ),
    ],
)
def test_a_bad_recipe_names_line_and_fix(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, RECIPE.replace(old, new)))


@pytest.mark.parametrize("steps", ["", "[]", "3", "{a: 1}"])
def test_a_recipe_without_steps_is_refused(tmp_path: Path, steps: str) -> None:
    with pytest.raises(RecipeError, match=r"steps: expected steps, got"):
        load_recipe(write(tmp_path, f"schema: 1\nname: a\ndescription: b\nsteps: {steps}\n"))


@pytest.mark.parametrize(
    ("setting", "step", "param", "value"),
    [
        ("quantsim.param_bw=4", "quantsim", "param_bw", 4),
        ("adaround.reg_param=1e-2", "adaround", "reg_param", 0.01),
        ("adaround.beta_range=[10, 3]", "adaround", "beta_range", [10, 3]),
        ("adaround.engine=fast", "adaround", "engine", "fast"),
        ("adaround.warm_start=null", "adaround", "warm_start", None),
        ("adaround.skip='a=b'", "adaround", "skip", "a=b"),
    ],
)
def test_a_setting_replaces_one_parameter(recipe: Recipe, setting: str, step: str, param: str, value: object) -> None:
    changed = override(recipe, [setting])
    assert {spec.step: spec.params.get(param) for spec in changed.steps}[step] == value
    assert changed.sha256 != recipe.sha256
    assert recipe.steps[2].params["param_bw"] == 8


def test_the_last_setting_wins_and_no_setting_changes_nothing(recipe: Recipe) -> None:
    assert override(recipe, ["quantsim.param_bw=4", "quantsim.param_bw=8"]) == recipe
    assert override(recipe, []) == recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("adaround=3", "the form is not STEP.PARAM=VALUE"),
        ("adaround.x", "the form is not STEP.PARAM=VALUE"),
        (".x=1", "the form is not STEP.PARAM=VALUE"),
        ("adaruond.x=1", "'w8a8' has no step 'adaruond'; the closest is 'adaround'"),
        ("relu6.policy=keep", "no step 'relu6'.\n  fix: name one of its steps: fold_batch_norms, adaround, quantsim"),
        ("adaround.x=[1", "the value cannot be read"),
    ],
)
def test_a_bad_setting_says_what_is_due(recipe: Recipe, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        override(recipe, [setting])


def test_all_bad_settings_are_reported_at_once(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="The command line has 2 problems"):
        override(recipe, ["a", "quantsim.param_bw=8", "b.c=1"])


def test_the_effective_recipe_is_written_and_read_back(recipe: Recipe, tmp_path: Path) -> None:
    changed = override(recipe, ["adaround.reg_param=1e-5", "adaround.note='1e3'", "quantsim.param_bw=4"])
    path = tmp_path / "effective.yaml"
    path.write_text(recipe_text(changed))
    again = load_recipe(path)
    assert again.steps == changed.steps
    assert (again.sha256, again.name, again.description) == (changed.sha256, changed.name, changed.description)


def test_the_hash_is_of_the_content_and_not_of_its_spelling(recipe: Recipe, tmp_path: Path) -> None:
    respelled = RECIPE.replace("[20, 2]", "\n      - 20\n      - 2").replace("Fold, round, simulate.", "Other words.")
    reordered = respelled.replace("    param_bw: 8\n    output_bw: 8\n", "    output_bw: 8\n    param_bw: 8\n")
    assert load_recipe(write(tmp_path, reordered)).sha256 == recipe.sha256
    assert load_recipe(write(tmp_path, RECIPE.replace("10000", "10001"))).sha256 != recipe.sha256
