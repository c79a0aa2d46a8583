"""COCO's results format: how images and classes are named, and that nothing but a DataError escapes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.datasets.coco_results import read_coco_results
from zoo_core.datatypes import Detections
from zoo_core.errors import DataError

CLASSES = ("cat", "dog")
IDS = ("000042", "2007_000001", "a")


def entry(**changes: Any) -> dict[str, Any]:
    return {"image_id": 42, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, **changes}


def read(folder: Path, content: Any, **options: Any) -> dict[str, Detections]:
    path = folder / "results.json"
    path.write_text(json.dumps(content))
    return read_coco_results(path, CLASSES, options.pop("ids", IDS), **options)


def test_a_box_reaches_from_its_corner_over_its_size(tmp_path: Path) -> None:
    found = read(tmp_path, [entry(bbox=[1.5, 2, 3, 0])])

    assert found["000042"].boxes.tolist() == [[1.5, 2, 4.5, 2]]
    assert found["000042"].labels.tolist() == [0]


def test_images_are_named_by_id_or_by_the_digits_of_it(tmp_path: Path) -> None:
    names: list[int | str] = [42, "000042", 2007000001, "2007_000001", "a"]

    found = read(tmp_path, [entry(image_id=name) for name in names])

    assert {image_id: len(preds.scores) for image_id, preds in found.items()} == {
        "000042": 2,
        "2007_000001": 2,
        "a": 1,
    }


def test_a_number_that_may_be_two_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image_id 42 may be '42' or '0042'"):
        read(tmp_path, [entry()], ids=("42", "0042"))


def test_detections_come_highest_score_first_and_ties_in_the_files_order(tmp_path: Path) -> None:
    found = read(tmp_path, [entry(score=score, category_id=label) for score, label in ((0.5, 2), (0.9, 1), (0.5, 1))])

    assert found["000042"].scores == pytest.approx(np.array([0.9, 0.5, 0.5], np.float32))
    assert found["000042"].labels.tolist() == [0, 1, 0]


def test_the_first_category_may_have_another_number(tmp_path: Path) -> None:
    assert read(tmp_path, [entry(category_id=0)], first_category=0)["000042"].labels.tolist() == [0]
    with pytest.raises(DataError, match="category_id is '2'; the 2 classes are 0 to 1"):
        read(tmp_path, [entry(category_id=2)], first_category=0)


def test_an_empty_list_holds_no_detections(tmp_path: Path) -> None:
    assert read(tmp_path, []) == {}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(IDS),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NEARLY = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "image_id": st.sampled_from([42, "a"]) | ANYTHING,
            "category_id": st.integers(0, 3) | ANYTHING,
            "bbox": st.lists(st.floats() | st.integers(), min_size=4, max_size=4) | ANYTHING,
            "score": st.floats() | ANYTHING,
        },
    ),
    max_size=3,
)


@given(content=NEARLY | ANYTHING)
def test_nothing_but_a_data_error_escapes(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        found = read(folder, content)
    except DataError:
        return
    for preds in found.values():
        assert np.isfinite(preds.boxes).all()
        assert np.isfinite(preds.scores).all()
        assert set(preds.labels.tolist()) <= {0, 1}


@given(content=st.binary(max_size=40))
def test_bytes_that_are_no_json_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert read_coco_results(path, CLASSES, IDS) == {}
