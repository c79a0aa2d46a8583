from __future__ import annotations

import pytest

from zoo_core.errors import RecipeError
from zoo_core.evaluation.stages import ORIGINAL, Stage, all_stages, choose

STEPS = ("fold_batch_norms", "relu6", "adaround")


def stages(*, optimized_checkpoint: bool = False) -> dict[str, Stage]:
    return {stage.name: stage for stage in all_stages(STEPS, "w8a8", optimized_checkpoint=optimized_checkpoint)}


def test_the_four_corners_are_the_default() -> None:
    chosen = choose(tuple(stages().values()), None, "w8a8")

    assert [stage.name for stage in chosen] == ["fp32", "w8a8", "optimized_fp32", "optimized_w8a8"]


def test_plain_w8a8_is_the_folded_network_without_any_other_step() -> None:
    assert stages()["w8a8"].point == 0
    assert stages()["fp32"].point == ORIGINAL
    assert {stage.name: stage for stage in all_stages(("relu6",), "w4a8", optimized_checkpoint=False)}[
        "w4a8"
    ].point == -1


def test_all_gives_each_step_a_float_and_a_quantized_row() -> None:
    chosen = choose(tuple(stages().values()), "all", "w8a8")

    assert [stage.name for stage in chosen] == [
        "fp32",
        "w8a8",
        "fold_batch_norms_fp32",
        "fold_batch_norms_w8a8",
        "relu6_fp32",
        "relu6_w8a8",
        "adaround_fp32",
        "adaround_w8a8",
        "optimized_fp32",
        "optimized_w8a8",
    ]


def test_one_network_under_two_names_is_run_once() -> None:
    assert stages()["fold_batch_norms_w8a8"].same_as == "w8a8"
    assert stages()["adaround_w8a8"].same_as == "optimized_w8a8"
    assert stages()["relu6_w8a8"].same_as is None


def test_a_stage_whose_twin_is_not_asked_for_runs_itself() -> None:
    (chosen,) = choose(tuple(stages().values()), "adaround_w8a8", "w8a8")

    assert chosen.same_as is None


def test_an_optimized_checkpoint_leaves_no_rows_for_the_steps_it_replaces() -> None:
    found = stages(optimized_checkpoint=True)

    assert "adaround_fp32" not in found
    assert "fold_batch_norms_fp32" in found
    assert found["optimized_w8a8"].same_as is None


def test_a_step_named_twice_gets_two_names() -> None:
    names = [stage.name for stage in all_stages(("a", "a"), "w8a8", optimized_checkpoint=False)]

    assert {"a_1_fp32", "a_2_fp32"} <= set(names)


def test_an_unknown_stage_suggests_the_closest_and_lists_all() -> None:
    with pytest.raises(RecipeError, match="no stage 'optimised_w8a8'; the closest is 'optimized_w8a8'"):
        choose(tuple(stages().values()), "fp32,optimised_w8a8", "w8a8")


def test_no_stage_at_all_is_an_error() -> None:
    with pytest.raises(RecipeError, match="No stage was requested"):
        choose(tuple(stages().values()), " , ", "w8a8")
