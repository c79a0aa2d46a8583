"""A chunk's binding: what it depends on, what it does not, and that it is read back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from typed_records import STAGE, run_record
from zoo_core.datatypes import Detections
from zoo_core.runs.binding import stage_binding
from zoo_core.runs.predictions import Chunk, PredictionStore
from zoo_core.runs.record import RunRecord, read_record, record_text

NETWORK = dataclasses.replace(STAGE, network_sha256="5" * 64)


def record(**changes: Any) -> RunRecord:
    return dataclasses.replace(run_record(stages={"fp32": NETWORK, "w8a8": NETWORK}), **changes)


def environment(**changes: Any) -> dict[str, Any]:
    return {"environment": dataclasses.replace(run_record().environment, **changes)}


def dataset(**changes: Any) -> dict[str, Any]:
    return {"dataset": dataclasses.replace(run_record().dataset, **changes)}


def stage(**changes: Any) -> dict[str, Any]:
    return {"stages": {"fp32": dataclasses.replace(NETWORK, **changes)}}


CHUNK = Chunk(
    index=0,
    image_ids=("a",),
    predictions=(
        Detections(
            boxes=np.zeros((1, 4), np.float32), scores=np.ones(1, np.float32), labels=np.zeros(1, dtype=np.int64)
        ),
    ),
)


@pytest.mark.parametrize(
    "change",
    [
        {"zoo_eval": "9"},
        {"sources": {}},
        environment(packages={"torch": "9"}),
        environment(environment_variables={"MKL_CBWR": "AVX2"}),
        dataset(fingerprint="9" * 64),
        dataset(image_ids_sha256="9" * 64),
        stage(network_sha256="9" * 64),
        stage(batch_size=9),
        stage(runtime="onnxruntime"),
    ],
)
def test_other_predictions_have_another_binding(change: dict[str, Any]) -> None:
    assert stage_binding(record(**change), "fp32") != stage_binding(record(), "fp32")


@pytest.mark.parametrize(
    "change",
    [
        {"started": "2026-01-01T00:00:00+00:00"},
        {"registry": "/elsewhere/registry.yaml"},
        environment(processor="another", torch_threads=9),
        dataset(root="/elsewhere"),
        stage(seconds=99.0, warnings=("a warning",)),
    ],
)
def test_another_place_or_time_has_the_same_binding(change: dict[str, Any]) -> None:
    assert stage_binding(record(**change), "fp32") == stage_binding(record(), "fp32")


def test_stages_with_the_same_network_have_their_own_bindings_and_unknown_ones_none() -> None:
    assert stage_binding(record(), "fp32") != stage_binding(record(), "w8a8")
    assert stage_binding(record(), "w4a4") is None
    assert stage_binding(run_record(), "fp32") is None  # as before schema 3


def test_a_binding_survives_the_record_on_disk(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(record_text(record()))

    assert stage_binding(read_record(tmp_path), "fp32") == stage_binding(record(), "fp32")


@pytest.mark.parametrize(("mine", "theirs"), [("5" * 64, "6" * 64), ("5" * 64, None), (None, "5" * 64)])
def test_a_chunk_of_another_binding_is_a_stranger_and_is_removed_but_can_be_read(
    tmp_path: Path, mine: str | None, theirs: str | None
) -> None:
    path = PredictionStore(tmp_path, Detections, binding=theirs).write(CHUNK)
    store = PredictionStore(tmp_path, Detections, binding=mine)

    assert [chunk.image_ids for chunk in store] == [("a",)]
    assert store.strangers() == [path]
    assert store.missing([("a",)]) == [0]
    assert not path.exists()


def test_a_chunk_of_the_same_binding_is_kept(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, Detections, binding="5" * 64)
    path = store.write(CHUNK)

    assert pyarrow.parquet.read_schema(path).metadata[b"zoo_eval.binding"] == b"5" * 64
    assert store.strangers() == []
    assert store.missing([("a",)]) == []


def test_a_damaged_chunk_is_a_stranger(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, Detections, binding="5" * 64)
    path = store.write(CHUNK)
    path.write_bytes(b"PAR1")

    assert store.strangers() == [path]
