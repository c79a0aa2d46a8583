from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from toy_detector import data
from toy_detector.data import GridDataset
from toy_detector.model import load
from zoo_core.datatypes import Detections, ImageSize, ModelBundle
from zoo_core.errors import DataError, PluginError
from zoo_core.inference import CHUNK_IMAGES, CalibrationSet, InferenceSettings, _Lanes, load_inputs, predict
from zoo_core.runs.predictions import PredictionStore


@pytest.fixture
def dataset(tmp_path: Path) -> GridDataset:
    return GridDataset(data.write(tmp_path / "grid", num_test=70), "test")


@pytest.fixture
def bundle(dataset: GridDataset) -> ModelBundle:
    return load(None, dataset.class_names, "cpu")


def run(
    bundle: ModelBundle, dataset: GridDataset, folder: Path, *, batch_size: int = 4, workers: int = 2
) -> PredictionStore:
    store = PredictionStore(folder, Detections)
    settings = InferenceSettings(batch_size=batch_size, workers=workers, device="cpu")
    predict(bundle.network, bundle, dataset, dataset.ids, store, settings, lambda _num: None)
    return store


def test_every_image_is_predicted_once_and_in_order(bundle: ModelBundle, dataset: GridDataset, tmp_path: Path) -> None:
    store = run(bundle, dataset, tmp_path / "fp32")

    assert [image_id for chunk in store for image_id in chunk.image_ids] == list(dataset.ids)
    assert len(list(store)) == -(-len(dataset.ids) // CHUNK_IMAGES)


@pytest.mark.parametrize("workers", [0, 1, 5])
def test_the_number_of_workers_does_not_change_a_byte(
    bundle: ModelBundle, dataset: GridDataset, tmp_path: Path, workers: int
) -> None:
    reference = run(bundle, dataset, tmp_path / "reference", workers=2)
    other = run(bundle, dataset, tmp_path / "other", workers=workers)

    files = sorted(path.name for path in reference.directory.iterdir())
    assert sorted(path.name for path in other.directory.iterdir()) == files
    assert all((reference.directory / name).read_bytes() == (other.directory / name).read_bytes() for name in files)


@pytest.fixture
def torch_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_lanes_does_not_change_a_byte(
    bundle: ModelBundle, dataset: GridDataset, tmp_path: Path, torch_threads: Callable[[int], None]
) -> None:
    folders = []
    for num_lanes in (1, 3):
        torch_threads(num_lanes)
        folders.append(run(bundle, dataset, tmp_path / str(num_lanes)).directory)

    one, three = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert len(one) == 2
    assert one == three


@pytest.mark.parametrize(("max_lanes", "num_lanes"), [(1, 1), (2, 2), (16, 4)])
def test_no_more_batches_than_asked_for_are_on_their_way_at_once(
    bundle: ModelBundle, torch_threads: Callable[[int], None], max_lanes: int, num_lanes: int
) -> None:
    torch_threads(4)

    with _Lanes(
        bundle.network, bundle.decode, InferenceSettings(batch_size=1, workers=0, device="cpu", max_lanes=max_lanes)
    ) as lanes:
        assert lanes.num_lanes == num_lanes


def test_inference_leaves_the_thread_count_and_the_network_as_they_were(
    bundle: ModelBundle, dataset: GridDataset, tmp_path: Path, torch_threads: Callable[[int], None]
) -> None:
    torch_threads(3)
    weight = bundle.network.get_parameter("pool.weight")
    before, strides = weight.clone(), weight.stride()

    run(bundle, dataset, tmp_path / "fp32")

    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 3
    assert torch.get_num_threads() == 3
    assert torch.equal(weight, before)
    assert weight.stride() == strides


class KeepsState(torch.nn.Module):
    """Holds its input in itself between two operations, as AIMET's modules hold quantized parameters."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.held = torch.zeros(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.held = x
        time.sleep(0.005)  # another lane's turn
        scores: torch.Tensor = self.network(self.held)
        return scores


def test_lanes_do_not_share_the_state_of_a_forward_pass(
    bundle: ModelBundle, dataset: GridDataset, tmp_path: Path, torch_threads: Callable[[int], None]
) -> None:
    torch_threads(4)
    stateful = ModelBundle(
        network=KeepsState(bundle.network),
        example_input=bundle.example_input,
        preprocess=bundle.preprocess,
        decode=bundle.decode,
    )

    found, expected = run(stateful, dataset, tmp_path / "stateful"), run(bundle, dataset, tmp_path / "fp32")

    for name in ("chunk-00000.parquet", "chunk-00001.parquet"):
        assert (found.directory / name).read_bytes() == (expected.directory / name).read_bytes()


def test_progress_counts_every_image_once(bundle: ModelBundle, dataset: GridDataset, tmp_path: Path) -> None:
    done: list[int] = []
    settings = InferenceSettings(batch_size=4, workers=2, device="cpu")
    store = PredictionStore(tmp_path / "fp32", Detections)

    stats = predict(bundle.network, bundle, dataset, dataset.ids, store, settings, done.append)

    assert done == [4] * 16 + [4, 2]  # a chunk of 64, then the six that are left
    assert stats.num_images == 70
    assert 0 < stats.network_seconds <= stats.seconds


def test_batches_of_any_size_give_the_same_detections(
    bundle: ModelBundle, dataset: GridDataset, tmp_path: Path
) -> None:
    found = {}
    for batch_size in (1, 7, 32):
        store = run(bundle, dataset, tmp_path / str(batch_size), batch_size=batch_size)
        found[batch_size] = [prediction for chunk in store for prediction in chunk.predictions]

    for batch_size in (7, 32):
        for one, other in zip(found[1], found[batch_size], strict=True):
            assert isinstance(one, Detections)
            assert isinstance(other, Detections)
            assert np.array_equal(one.boxes, other.boxes)
            assert np.allclose(one.scores, other.scores, atol=1e-5)


def test_a_missing_image_stops_the_run_and_keeps_complete_chunks(
    bundle: ModelBundle, dataset: GridDataset, tmp_path: Path
) -> None:
    (tmp_path / "grid" / f"{dataset.ids[66]}.png").unlink()

    with pytest.raises(DataError, match=f"{dataset.ids[66]}\\.png"):
        run(bundle, dataset, tmp_path / "fp32")

    assert [path.name for path in (tmp_path / "fp32").iterdir()] == ["chunk-00000.parquet"]
    assert len(next(iter(PredictionStore(tmp_path / "fp32", Detections))).predictions) == CHUNK_IMAGES


def test_a_decode_that_loses_an_image_is_named(bundle: ModelBundle, dataset: GridDataset, tmp_path: Path) -> None:
    def forgetful(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> Sequence[Detections]:
        found = bundle.decode(outputs, sizes)[1:]
        return [prediction for prediction in found if isinstance(prediction, Detections)]

    broken = ModelBundle(
        network=bundle.network,
        example_input=bundle.example_input,
        preprocess=bundle.preprocess,
        decode=forgetful,
    )

    with pytest.raises(PluginError, match="decode returned 3 predictions for a batch of 4 images"):
        run(broken, dataset, tmp_path / "fp32")


def test_inputs_carry_the_size_of_the_original_image(bundle: ModelBundle, dataset: GridDataset) -> None:
    array, size = next(load_inputs(dataset, dataset.ids, bundle.preprocess, workers=0))

    assert array.shape == (3, 64, 64)
    assert size == ImageSize(width_px=64, height_px=64)


def test_a_calibration_set_repeats_itself(bundle: ModelBundle, dataset: GridDataset) -> None:
    settings = InferenceSettings(batch_size=4, workers=2, device="cpu")
    calibration = CalibrationSet(dataset, dataset.ids[:10], bundle.preprocess, settings, lambda _num: None)

    first, second = list(calibration), list(calibration)

    assert [batch.shape[0] for batch in first] == [8, 2]  # whatever the settings' batch size
    assert len(calibration) == 2
    assert calibration.num_images == 10
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
