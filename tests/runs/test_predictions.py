from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoo_core.datatypes import Detections
from zoo_core.errors import RunError
from zoo_core.runs.predictions import Chunk, PredictionStore


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
