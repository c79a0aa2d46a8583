"""comp4 files: bit-exact round trips, other people's files, malformed ones."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoo_core.datasets.comp4 import read_comp4, write_comp4
from zoo_core.datasets.voc import VOC_CLASSES
from zoo_core.datatypes import Detections, Prediction
from zoo_core.errors import DataError, PluginError

NAMES = ("cat", "dog")


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(
        boxes=table[:, :4].astype(np.float32), scores=table[:, 4].astype(np.float32), labels=table[:, 5].astype(int)
    )


def write_lines(folder: Path, text: str, name: str = "comp4_det_test_cat.txt") -> None:
    (folder / name).write_text(text)


def test_lines_are_1_based_and_in_the_order_of_the_predictions(tmp_path: Path) -> None:
    predictions = [
        ("b", detections((0, 1, 2, 3, 0.5, 1), (9, 9, 9, 9, 0.25, 0))),
        ("a", detections((1.5, 1, 2, 3, 0.75, 1))),
        ("c", detections()),
    ]
    write_comp4(tmp_path, predictions, class_names=("cat", "dog", "big cow"), split="val")
    assert (tmp_path / "comp4_det_val_dog.txt").read_text() == "b 0.5 1 2 3 4\na 0.75 2.5 2 3 4\n"
    assert (tmp_path / "comp4_det_val_cat.txt").read_text() == "b 0.25 10 10 10 10\n"
    assert (tmp_path / "comp4_det_val_big cow.txt").read_text() == ""
    result = read_comp4(tmp_path, ("cat", "dog", "big cow"))
    assert result.split == "val"
    assert result.submitted == (0, 1, 2)
    assert result.image_ids.tolist() == ["b", "b", "a"]
    assert result.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(result.boxes[1], [0, 1, 2, 3])


# Below 2e-9 px the shift to 1-based corners leaves the range of a float64; see the test that follows.
coordinates = hnp.arrays(
    np.float32,
    (5, 4),
    elements=st.one_of(st.floats(-1e4, 1e4, width=32), st.floats(-1, 1, width=32)).filter(
        lambda x: not 0 < abs(x) < 2e-9
    ),
)


@given(coordinates, hnp.arrays(np.float32, 5, elements=st.floats(0, 1, width=32)))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_float32_survives_writing_and_reading(
    tmp_path: Path, boxes: np.typing.NDArray[np.float32], scores: np.typing.NDArray[np.float32]
) -> None:
    prediction = Detections(boxes=boxes, scores=scores, labels=np.zeros(5, np.int64))
    write_comp4(tmp_path, [("a", prediction)], class_names=NAMES, split="test")
    result = read_comp4(tmp_path, NAMES)
    np.testing.assert_array_equal(result.boxes, boxes)
    np.testing.assert_array_equal(result.scores.astype(np.float32), scores)


def test_a_coordinate_next_to_zero_survives_to_1e_16_px(tmp_path: Path) -> None:
    tiny = (1e-9, -1e-12, 1.1e-16, 1e-30)
    write_comp4(
        tmp_path, [("a", detections((tiny[0], tiny[1], tiny[2], tiny[3], 0.5, 0)))], class_names=NAMES, split="test"
    )
    np.testing.assert_allclose(read_comp4(tmp_path, NAMES).boxes[0], tiny, rtol=0, atol=1.2e-16)


def test_predictions_are_consumed_one_by_one_and_written_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "comp4_det_test_cat.txt"
    sizes = []

    def stream() -> Iterator[tuple[str, Prediction]]:
        for number in range(60):
            sizes.append(path.stat().st_size)
            yield f"{number:06d}", detections(*[(1, 2, 3, 4, 0.5, 0)] * 1000)

    write_comp4(tmp_path, stream(), class_names=NAMES, split="test")
    assert sizes[0] == 0
    assert sizes[30] > 0
    assert path.stat().st_size == 60_000 * len("000000 0.5 2 3 4 5\n")


def test_a_second_writing_replaces_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        write_comp4(tmp_path, [("a", detections((1, 2, 3, 4, 0.5, 0)))], class_names=NAMES, split="test")
    assert len(read_comp4(tmp_path, NAMES).scores) == 1


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    one = detections((1, 2, 3, 4, 0.5, 0))
    with pytest.raises(PluginError, match="'a' has labels from 2 to 2; there are 2 classes"):
        write_comp4(tmp_path, [("a", detections((1, 2, 3, 4, 0.5, 2)))], class_names=NAMES, split="test")
    with pytest.raises(PluginError, match="'a' has labels from -1 to -1"):
        write_comp4(tmp_path, [("a", detections((1, 2, 3, 4, 0.5, -1)))], class_names=NAMES, split="test")
    with pytest.raises(DataError, match="'a' has a score or a box that is not finite"):
        write_comp4(tmp_path, [("a", detections((1, 2, float("inf"), 4, 0.5, 0)))], class_names=NAMES, split="test")
    with pytest.raises(DataError, match="'a b' contains white space"):
        write_comp4(tmp_path, [("a b", one)], class_names=NAMES, split="test")
    with pytest.raises(DataError, match=r"'\.\./x' \(index 0\) contains a path separator"):
        write_comp4(tmp_path, [("a", one)], class_names=("../x",), split="test")
    with pytest.raises(DataError, match=r"Split '\.\./x' contains a path separator"):
        write_comp4(tmp_path, [("a", one)], class_names=NAMES, split="../x")
    with pytest.raises(PluginError, match="'a' has a prediction of type Prediction"):
        write_comp4(tmp_path, [("a", Prediction())], class_names=NAMES, split="test")
    with pytest.raises(DataError, match="a detection file cannot be written"):
        write_comp4(tmp_path / "absent", [("a", one)], class_names=NAMES, split="test")


def test_classes_without_a_file_were_not_submitted(tmp_path: Path) -> None:
    write_lines(tmp_path, "", "comp4_det_test_dog.txt")
    result = read_comp4(tmp_path, NAMES)
    assert result.submitted == (1,)
    assert result.boxes.shape == (0, 4)
    assert result.scores.shape == result.labels.shape == result.image_ids.shape == (0,)
    assert result.by_image() == {}


def test_detections_by_image_fall_in_score_and_ties_keep_the_files_order(tmp_path: Path) -> None:
    write_lines(tmp_path, "b 0.5 1 1 2 2\na 0.5 2 2 3 3\nb 0.5 3 3 4 4\nb 0.9 4 4 5 5\n")
    write_lines(tmp_path, "b 0.5 5 5 6 6\n", "comp4_det_test_dog.txt")
    by_image = read_comp4(tmp_path, NAMES).by_image()
    assert list(by_image) == ["a", "b"]
    assert by_image["b"].boxes[:, 0].tolist() == [3, 0, 2, 4]
    assert by_image["b"].labels.tolist() == [0, 0, 0, 1]
    assert by_image["a"].scores.tolist() == [0.5]


def test_the_longest_class_name_settles_where_the_split_ends(tmp_path: Path) -> None:
    write_lines(tmp_path, "a 0.5 1 1 2 2\n", "comp4_det_my_test_toy_cat.txt")
    result = read_comp4(tmp_path, ("cat", "toy_cat"))
    assert (result.split, result.submitted) == ("my_test", (1,))


def test_a_folder_without_detection_files_or_of_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a directory"):
        read_comp4(tmp_path / "nowhere", NAMES)
    with pytest.raises(DataError, match=r"holds no file comp4_det_<split>_<class>\.txt"):
        read_comp4(tmp_path, NAMES)
    write_lines(tmp_path, "", "comp4_det_test_cat.txt")
    write_lines(tmp_path, "", "comp4_det_val_cat.txt")
    with pytest.raises(DataError, match="several splits: test, val"):
        read_comp4(tmp_path, NAMES)
    assert read_comp4(tmp_path, NAMES, split="val").split == "val"
    with pytest.raises(DataError, match="holds no file comp4_det_train_"):
        read_comp4(tmp_path, NAMES, split="train")


def test_a_file_of_an_unknown_class_suggests_the_closest(tmp_path: Path) -> None:
    write_lines(tmp_path, "", "comp4_det_test_dgo.txt")
    with pytest.raises(DataError, match=r"comp4_det_test_dgo\.txt belongs to a class .* classes; the closest is 'dog'"):
        read_comp4(tmp_path, NAMES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a 0.5 1 1 2", r"comp4_det_test_cat\.txt:2: 5 columns instead of 6"),
        ("", r"cat\.txt:2: 0 columns instead of 6"),
        ("a 0.5 1 1 2 2 2", r"cat\.txt:2: 7 columns"),
        ("a high 1 1 2 2", r"cat\.txt:2: score is 'high', not a finite number"),
        ("a 0.5 1 nan 2 2", r"cat\.txt:2: y1 is 'nan'"),
        ("a 0.5 1 1 inf 2", r"cat\.txt:2: x2 is 'inf'"),
        ("a 0.5 1 1 2 1e39", r"cat\.txt:2: y2 is '1e39'"),
        ("a 0.5 1_0 1 2 2", r"cat\.txt:2: x1 is '1_0'"),
        ("../a 0.5 1 1 2 2", r"cat\.txt:2: image id '\.\./a' contains a path separator"),
        ("a\x00 0.5 1 1 2 2", r"cat\.txt:2: image id 'a\\x00' contains a control character"),
    ],
)
def test_a_malformed_line_is_named_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    write_lines(tmp_path, f"a 0.5 1 1 2 2\n{line}\na 0.5 1 1 2 2\n")
    with pytest.raises(DataError, match=message):
        read_comp4(tmp_path, NAMES)


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "0.5", "-1e3", "nan", "1_0", "3.2e38", "\x85", "٣", "x" * 300, "/"]), max_size=7)
    )
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_raises_anything_but_a_data_error(tmp_path: Path, rows: list[list[str]]) -> None:
    write_lines(tmp_path, "\n".join(" ".join(row) for row in rows))
    try:
        result = read_comp4(tmp_path, NAMES)
    except DataError as error:
        assert "comp4_det_test_cat.txt:" in error.fact  # noqa: PT017  # what is tested is that nothing else is raised
    else:
        assert np.isfinite(result.boxes).all()
        assert np.isfinite(result.scores).all()


@pytest.mark.data
def test_published_detections_are_read_in_full(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "data" / "voc2007_detections.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / "voc2007_detections"
    incomplete, complete = (read_comp4(folder / name, VOC_CLASSES) for name in ("yolo2_a", "yolo2_b"))
    assert set(range(20)) - set(incomplete.submitted) == {VOC_CLASSES.index("person")}
    assert complete.submitted == tuple(range(20))
    assert complete.split == incomplete.split == "test"
    lines = sum(len(path.read_text().splitlines()) for path in (folder / "yolo2_b").iterdir())
    assert len(complete.scores) == lines
    # A genuine line, taken from the file by eye: 000002 0.007357 286.523041 120.922638 307.439728 159.183990
    assert (incomplete.image_ids[0], incomplete.labels[0]) == ("000002", 0)
    assert incomplete.scores[0] == 0.007357
    np.testing.assert_allclose(incomplete.boxes[0], [285.523041, 119.922638, 306.439728, 158.18399], rtol=1e-7)
    assert sum(map(len, (found.scores for found in complete.by_image().values()))) == lines
