from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo_core.datatypes import Detections, Prediction
from zoo_core.errors import PluginError, RunError
from zoo_core.runs.predictions import Chunk, PredictionsById, PredictionStore


def detections(num: int, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    return Detections(
        boxes=rng.normal(size=(num, 4)).astype(np.float32),
        scores=np.sort(rng.random(num).astype(np.float32))[::-1].copy(),
        labels=rng.integers(0, 20, num),
    )


def chunk(index: int, counts: list[int]) -> Chunk:
    ids = tuple(f"{index:03d}_{row}" for row in range(len(counts)))
    return Chunk(
        index=index, image_ids=ids, predictions=tuple(detections(num, seed) for seed, num in enumerate(counts))
    )


@pytest.mark.parametrize("counts", [[3, 0, 5], [0], [0, 0], [1, 200]])
def test_a_chunk_comes_back_as_it_was_written(tmp_path: Path, counts: list[int]) -> None:
    store = PredictionStore(tmp_path / "fp32", Detections)
    written = chunk(0, counts)

    store.write(written)
    (read,) = list(store)

    assert read.image_ids == written.image_ids
    for found, expected in zip(read.predictions, written.predictions, strict=True):
        for name, array in expected.arrays().items():
            assert found.arrays()[name].dtype == array.dtype
            assert np.array_equal(found.arrays()[name], array)


def test_chunks_come_back_in_order(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, Detections)
    for index in (2, 0, 1):
        store.write(chunk(index, [1]))

    assert [found.image_ids[0] for found in store] == ["000_0", "001_0", "002_0"]


def test_writing_a_chunk_again_gives_the_same_bytes_and_leaves_no_partial_file(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, Detections)
    first = store.write(chunk(0, [4, 2])).read_bytes()

    assert store.write(chunk(0, [4, 2])).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["chunk-00000.parquet"]


def test_a_damaged_chunk_names_the_file(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, Detections)
    path = store.write(chunk(0, [4]))
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(RunError, match=r"chunk-00000\.parquet cannot be read as predictions"):
        list(store)


def ids(index: int, counts: list[int]) -> tuple[str, ...]:
    return chunk(index, counts).image_ids


def test_only_chunks_that_are_whole_and_hold_the_right_images_are_kept(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, Detections)
    for index in range(5):
        store.write(chunk(index, [2, 30]))
    cut, flipped = store.path(1).read_bytes(), bytearray(store.path(2).read_bytes())
    store.path(1).write_bytes(cut[:-1])
    flipped[len(flipped) // 3] ^= 1
    store.path(2).write_bytes(flipped)
    store.path(9).write_bytes(cut)
    (tmp_path / "chunk-00007.partial").write_bytes(cut[:9])

    missing = store.missing([ids(0, [2, 30]), ids(1, [2, 30]), ids(2, [2, 30]), ("other", "003_1"), ids(4, [2, 30])])

    assert missing == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chunk-00000.parquet", "chunk-00004.parquet"]


def test_a_flipped_bit_in_the_values_is_found_when_they_are_read(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, Detections)
    whole = store.write(chunk(0, [40, 60])).read_bytes()
    harmless = 0
    for position in range(4, len(whole) - 8, 97):
        flipped = bytearray(whole)
        flipped[position] ^= 16
        store.path(0).write_bytes(flipped)
        try:
            (read,) = list(store)
        except RunError:
            continue
        harmless += 1  # in the footer's statistics or names, which nothing uses
        for found, expected in zip(read.predictions, chunk(0, [40, 60]).predictions, strict=True):
            assert all(np.array_equal(found.arrays()[name], array) for name, array in expected.arrays().items())

    assert harmless < 20


def test_clearing_removes_every_chunk(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, Detections)
    store.write(chunk(0, [1]))

    store.clear()

    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrays(Prediction):
    first: Any
    second: Any


def arrays_chunk(arrays: Sequence[Any]) -> Chunk:
    predictions = tuple(Arrays(first=array, second=np.zeros(2)) for array in arrays)
    return Chunk(index=0, image_ids=tuple(f"image {row}" for row in range(len(arrays))), predictions=predictions)


def assert_same(read: Any, written: Any) -> None:
    assert read.dtype == written.dtype
    assert read.shape == written.shape
    assert read.tobytes() == np.asarray(written).tobytes()


SHAPES = {
    "masks of different sizes": [(4, 6), (5, 3), (1, 1)],
    "masks with an empty one": [(4, 6), (0, 6), (4, 0), (0, 0)],
    "rows without columns": [(3, 0), (5, 0)],
    "keypoints": [(2, 17, 3), (0, 17, 3), (1, 17, 3)],
    "one mask a detection": [(2, 5, 7), (0, 3, 3), (1, 9, 2)],
    "scalars": [(), (), ()],
    "any number of axes": [(), (2,), (3, 2), (1, 2, 3, 4)],
    "equal masks": [(4, 6), (4, 6)],
    "vectors": [(3,), (0,), (1,)],
}


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint32", "int64", "uint64", "f2", "f4", "f8"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_arrays_of_any_shape_come_back_exactly(tmp_path: Path, shapes: list[tuple[int, ...]], dtype: str) -> None:
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.normal(scale=99, size=shape)).astype(dtype) for shape in shapes]
    store = PredictionStore(tmp_path, Arrays)

    store.write(arrays_chunk(arrays))

    (read,) = store
    for prediction, array in zip(read.predictions, arrays, strict=True):
        assert_same(prediction.arrays()["first"], array)
    assert store.missing([read.image_ids]) == []


def test_arrays_of_random_shapes_come_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    store = PredictionStore(tmp_path, Arrays)
    for _ in range(60):
        num_axes = int(rng.integers(0, 4))
        arrays = [rng.normal(size=rng.integers(0, 4, num_axes)) for _ in range(int(rng.integers(1, 6)))]
        store.write(arrays_chunk(arrays))
        (read,) = store
        for prediction, array in zip(read.predictions, arrays, strict=True):
            assert_same(prediction.arrays()["first"], array)


def test_not_a_number_views_and_fortran_order_come_back_exactly(tmp_path: Path) -> None:
    arrays = [np.array([[np.nan, -0.0], [np.inf, 1]]), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.eye(4)[::2]]
    store = PredictionStore(tmp_path, Arrays)

    store.write(arrays_chunk(arrays))

    (read,) = store
    for prediction, array in zip(read.predictions, arrays, strict=True):
        assert_same(prediction.arrays()["first"], array)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array(["cat"]), r"<U3 array of shape \(1,\)\) cannot be stored: its values are not plain"),
        (np.zeros((2, 3), complex), r"complex128 array of shape \(2, 3\)\) cannot be stored: its values are not plain"),
        (np.zeros(2, ">f4"), r"cannot be stored: its values are not plain"),
        (np.array([None]), r"object array of shape \(1,\)\) cannot be stored"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), r"masked array\) cannot be stored: its mask would be lost"),
        ([1.0], r"list\) cannot be stored: it is not a numpy array"),
        (None, r"NoneType\) cannot be stored: it is not a numpy array"),
        (np.zeros((0, 4), np.float32), "image 'image 0' has float64, and a field has one dtype"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_field_shape_and_image(tmp_path: Path, value: Any, words: str) -> None:
    store = PredictionStore(tmp_path, Arrays)

    with pytest.raises(PluginError, match=rf"The field 'first' of image 'image 1' .*{words}"):
        store.write(arrays_chunk([np.zeros(3), value]))

    assert list(tmp_path.iterdir()) == []


def test_a_chunk_written_without_shapes_is_still_read(tmp_path: Path) -> None:
    offsets = np.array([0, 1, 1, 3], np.int32)
    boxes = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12, dtype=np.float32)), 4)
    columns = {
        "image_id": pa.array(["a", "b", "c"]),
        "boxes": pa.ListArray.from_arrays(offsets, boxes),
        "scores": pa.ListArray.from_arrays(offsets, pa.array(np.array([0.5, 0.4, 0.3], np.float32))),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(np.array([7, 8, 9]))),
    }
    pq.write_table(pa.table(columns), tmp_path / "chunk-00000.parquet", compression="zstd", write_page_checksum=True)

    (read,) = store = PredictionStore(tmp_path, Detections)

    assert [len(found.arrays()["scores"]) for found in read.predictions] == [1, 0, 2]
    assert read.predictions[2].arrays()["boxes"].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert store.missing([("a", "b", "c")]) == []  # bytes are as the store itself writes them


def test_predictions_are_found_by_id_in_any_order_and_read_once_in_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PredictionStore(tmp_path / "fp32", Detections)
    chunks = [chunk(index, [2, 3]) for index in range(4)]
    for one in chunks:
        store.write(one)
    ids = [image_id for one in chunks for image_id in one.image_ids]
    expected = dict(pair for one in chunks for pair in zip(one.image_ids, one.predictions, strict=True))
    by_id, read = PredictionsById(store), []
    original = PredictionStore._read

    def counted(self: PredictionStore, index: int, path: Path) -> Chunk:
        read.append(index)
        return original(self, index, path)

    monkeypatch.setattr(PredictionStore, "_read", counted)
    for image_id in ids:
        assert np.array_equal(by_id[image_id].arrays()["boxes"], expected[image_id].arrays()["boxes"])
    assert read == [0, 1, 2, 3]

    for image_id in reversed(ids):
        assert np.array_equal(by_id[image_id].arrays()["boxes"], expected[image_id].arrays()["boxes"])
    assert list(by_id) == ids
    assert len(by_id) == len(ids)
    with pytest.raises(KeyError, match="nowhere"):
        by_id["nowhere"]
