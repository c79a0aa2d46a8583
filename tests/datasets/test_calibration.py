"""The calibration draw: reproducible, nested, and apart from what is evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.datasets.calibration import draw_calibration
from zoo_core.datasets.pictures import Twin
from zoo_core.datasets.voc import VocDetection
from zoo_core.errors import DataError

IDS = tuple(f"{number:06d}" for number in range(100))


def test_a_draw_depends_only_on_the_set_of_ids_and_the_seed() -> None:
    draw = draw_calibration(IDS, 10, 0, evaluated_ids=())
    assert draw == draw_calibration([*IDS[50:], *reversed(IDS)], 10, 0, evaluated_ids=())
    assert draw.ids != draw_calibration(IDS, 10, 1, evaluated_ids=()).ids
    assert (draw.requested, draw.available, draw.overlap) == (10, 100, ())


def test_a_draw_is_the_same_in_every_version_of_numpy() -> None:
    # PCG64(5) gives, in units of 1e18: 14.850, 14.904, 9.506, 5.272, 0.995, 7.072; the smallest comes first.
    assert draw_calibration("abcdef", 6, 5, evaluated_ids=()).ids == ("e", "d", "f", "c", "a", "b")


@given(st.sets(st.text(max_size=3), min_size=1), st.integers(1, 40), st.integers(0, 2**63 - 1))
def test_a_draw_has_the_size_asked_for_no_repeats_and_begins_like_a_larger_one(
    ids: set[str], size: int, seed: int
) -> None:
    draw = draw_calibration(ids, size, seed, evaluated_ids=())
    assert len(draw.ids) == len(set(draw.ids)) == min(size, len(ids))
    assert set(draw.ids) <= ids
    assert draw_calibration(ids, size + 1, seed, evaluated_ids=()).ids[: len(draw.ids)] == draw.ids


def test_fewer_images_than_asked_for_are_all_taken_and_recorded() -> None:
    draw = draw_calibration(IDS[:7], 500, 0, evaluated_ids=())
    assert sorted(draw.ids) == list(IDS[:7])
    assert (draw.requested, draw.available) == (500, 7)


def test_every_image_is_drawn_equally_often() -> None:
    counts = Counter(
        image_id for seed in range(2000) for image_id in draw_calibration(IDS[:20], 5, seed, evaluated_ids=()).ids
    )
    # Binomial(2000, 1/4): mean 500, standard deviation 19.4; five of them either way.
    assert set(counts) == set(IDS[:20])
    assert all(abs(count - 500) < 97 for count in counts.values())


def test_images_that_are_evaluated_are_refused_by_id() -> None:
    drawn = draw_calibration(IDS, 10, 0, evaluated_ids=()).ids
    with pytest.raises(DataError, match=rf"1 of 10 calibration images are evaluated too \({drawn[3]}\)"):
        draw_calibration(IDS, 10, 0, evaluated_ids=[drawn[3], "elsewhere"])
    with pytest.raises(DataError, match=r"10 of 10 .*, \.\.\.\).*\n.*--allow-calibration-overlap"):
        draw_calibration(IDS, 10, 0, evaluated_ids=IDS)


def test_an_allowed_overlap_is_recorded() -> None:
    drawn = draw_calibration(IDS, 10, 0, evaluated_ids=()).ids
    draw = draw_calibration(IDS, 10, 0, evaluated_ids=(drawn[3], drawn[1], "elsewhere"), allow_overlap=True)
    assert draw.ids == drawn
    assert draw.overlap == tuple(sorted((drawn[3], drawn[1])))


def test_a_picture_that_is_evaluated_under_another_id_is_refused_with_the_reason_and_only_drawn_ones_are_compared() -> (
    None
):
    drawn = draw_calibration(IDS, 5, 0, evaluated_ids=()).ids
    asked: list[str] = []

    def same(ids: Sequence[str]) -> Mapping[str, Twin]:
        asked.extend(ids)
        return {drawn[2]: Twin(reason="has the pixels of 'copy'", certain=True)}

    with pytest.raises(DataError, match=rf"1 of 5 calibration images .* \({drawn[2]} has the pixels of 'copy'\)"):
        draw_calibration(IDS, 5, 0, evaluated_ids=(), same_pictures=same)
    assert tuple(asked) == drawn
    draw = draw_calibration(IDS, 5, 0, evaluated_ids=(drawn[0],), same_pictures=same, allow_overlap=True)
    assert draw.overlap == tuple(sorted((drawn[0], drawn[2])))


def test_pictures_that_only_look_alike_are_refused_in_other_words_and_recorded_apart() -> None:
    drawn = draw_calibration(IDS, 5, 0, evaluated_ids=()).ids
    twins = {drawn[1]: Twin(reason="shows the picture of 'near'", certain=False)}
    with pytest.raises(
        DataError, match=rf"1 of 5 .* look like evaluated ones \({drawn[1]} shows .* 'near'\).*\n.*different pictures"
    ):
        draw_calibration(IDS, 5, 0, evaluated_ids=(), same_pictures=lambda _: twins)
    with pytest.raises(DataError, match=rf"1 of 5 calibration images are evaluated too \({drawn[0]}\)"):
        draw_calibration(IDS, 5, 0, evaluated_ids=(drawn[0],), same_pictures=lambda _: twins)

    options = {"same_pictures": lambda _: twins, "allow_overlap": True}
    draw = draw_calibration(IDS, 5, 0, evaluated_ids=(drawn[0],), **options)  # type: ignore[arg-type]
    assert (draw.overlap, draw.alike) == ((drawn[0],), (drawn[1],))
    draw = draw_calibration(IDS, 5, 0, evaluated_ids=(drawn[1],), **options)  # type: ignore[arg-type]
    assert (draw.overlap, draw.alike) == ((drawn[1],), ())


@pytest.mark.parametrize(
    ("ids", "size", "seed", "message"),
    [
        ((), 10, 0, "lists no image"),
        (IDS, 0, 0, "calibration size is 0"),
        (IDS, 1, -1, "The seed is -1"),
        (IDS, 1, 2**63, "The seed is 9223372036854775808"),
    ],
)
def test_a_draw_that_is_impossible_is_refused(ids: tuple[str, ...], size: int, seed: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_calibration(ids, size, seed, evaluated_ids=())


@pytest.mark.data
def test_the_genuine_splits_never_meet(voc2007: Path) -> None:
    test, trainval = VocDetection(voc2007, "test"), VocDetection(voc2007, "trainval")
    draw = draw_calibration(trainval.ids, 500, 0, evaluated_ids=test.ids)
    assert (len(draw.ids), draw.available, draw.overlap) == (500, 5011, ())
    with pytest.raises(DataError, match="500 of 500 calibration images are evaluated too"):
        draw_calibration(test.ids, 500, 0, evaluated_ids=test.ids)
