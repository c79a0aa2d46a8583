from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from zoo_core.datasets.shapes import CLASS_NAMES, ShapesImage, Split, draw_image
from zoo_core.errors import DataError


@pytest.fixture(scope="module")
def pictures() -> list[ShapesImage]:
    return [draw_image("test", index) for index in range(120)]


def test_the_classes_are_five_outlines_in_four_textures() -> None:
    outlines = ["disk", "square", "triangle", "star", "cross"]
    textures = ["solid", "stripes", "checker", "dots"]
    assert list(CLASS_NAMES) == [f"{texture}_{outline}" for texture, outline in itertools.product(textures, outlines)]


def test_the_same_arguments_give_the_same_picture() -> None:
    first, second = draw_image("test", 7, seed=3), draw_image("test", 7, seed=3)
    for name in ("image", "boxes", "labels", "difficult", "truncated"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_the_number_of_opencv_threads_does_not_change_a_picture() -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = [draw_image("test", index).image for index in range(10)]
        cv2.setNumThreads(8)
        together = [draw_image("test", index).image for index in range(10)]
    finally:
        cv2.setNumThreads(threads)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_split_index_and_seed_each_give_another_picture() -> None:
    splits: tuple[Split, ...] = ("train", "trainval", "test")
    drawn = [
        draw_image(split, index, seed=seed).image.tobytes()
        for split, index, seed in itertools.product(splits, range(8), (0, 1))
    ]
    assert len(set(drawn)) == len(drawn)


def test_arrays_have_the_documented_shapes_and_types(pictures: list[ShapesImage]) -> None:
    for picture in pictures:
        num_objects = len(picture.labels)
        assert 1 <= num_objects <= 5
        assert picture.image.dtype == np.uint8
        assert picture.image.shape[2] == 3
        assert picture.boxes.shape == (num_objects, 4)
        assert picture.boxes.dtype == np.float32
        assert picture.labels.dtype == np.int64
        assert picture.difficult.shape == picture.truncated.shape == (num_objects,)
        assert picture.difficult.dtype == picture.truncated.dtype == np.bool_


def test_boxes_lie_inside_the_picture_and_span_at_least_a_pixel(pictures: list[ShapesImage]) -> None:
    for picture in pictures:
        height, width = picture.image.shape[:2]
        assert (picture.boxes >= 0).all()
        assert (picture.boxes[:, 2:] <= [width - 1, height - 1]).all()
        assert (picture.boxes[:, :2] <= picture.boxes[:, 2:]).all()


def test_a_large_solid_shape_has_one_color_in_the_middle_of_its_box(pictures: list[ShapesImage]) -> None:
    # An independent look at where boxes, labels and channels come from: the middle of a solid disk, square or cross
    # that nothing covers differs from its surroundings only by noise, clutter apart.
    spreads = []
    for picture in pictures:
        if len(picture.labels) != 1 or CLASS_NAMES[picture.labels[0]] not in {"solid_disk", "solid_square"}:
            continue
        x1, y1, x2, y2 = picture.boxes[0].astype(int)
        middle = cv2.medianBlur(picture.image, 5)[(3 * y1 + y2) // 4 : (y1 + 3 * y2) // 4, (x1 * 3 + x2) // 4 : x2]
        spreads.append(np.median(np.abs(middle - np.median(middle, axis=(0, 1)))))
    assert len(spreads) >= 2
    assert max(spreads) < 20


def test_sizes_sides_and_flags_vary(pictures: list[ShapesImage]) -> None:
    fractions = np.concatenate(
        [
            np.sqrt((p.boxes[:, 2] - p.boxes[:, 0] + 1) * (p.boxes[:, 3] - p.boxes[:, 1] + 1) / p.image[..., 0].size)
            for p in pictures
        ]
    )
    assert fractions.min() < 0.10
    assert fractions.max() > 0.65
    assert fractions.max() <= 0.85
    assert len({p.image.shape for p in pictures}) > 100
    for flags in (np.concatenate([p.difficult for p in pictures]), np.concatenate([p.truncated for p in pictures])):
        assert 0.02 < flags.mean() < 0.4


def test_a_truncated_shape_touches_the_border(pictures: list[ShapesImage]) -> None:
    for picture in pictures:
        height, width = picture.image.shape[:2]
        x1, y1, x2, y2 = picture.boxes.T
        touches = (x1 <= 0) | (y1 <= 0) | (x2 >= width - 1) | (y2 >= height - 1)
        assert touches[picture.truncated].all()


def test_some_boxes_overlap(pictures: list[ShapesImage]) -> None:
    def overlaps(picture: ShapesImage) -> bool:
        return any(
            (np.maximum(a[:2], b[:2]) < np.minimum(a[2:], b[2:])).all()
            for a, b in itertools.combinations(picture.boxes, 2)
        )

    assert sum(map(overlaps, pictures)) > 20


def test_every_class_appears_about_equally_often(pictures: list[ShapesImage]) -> None:
    counts = np.bincount(np.concatenate([p.labels for p in pictures]), minlength=len(CLASS_NAMES))
    assert len(counts) == 20
    assert counts.min() >= 4


def test_an_unknown_split_is_an_error_that_lists_the_splits() -> None:
    with pytest.raises(DataError, match=r"no split 'val'.\n  fix: use one of train, trainval, test"):
        draw_image("val", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("index", "seed"), [(-1, 0), (0, -1)])
def test_a_negative_index_or_seed_is_an_error(index: int, seed: int) -> None:
    with pytest.raises(DataError, match=f"Picture {index} of seed {seed}"):
        draw_image("test", index, seed=seed)
