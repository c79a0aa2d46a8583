"""Runs a network over a dataset and stores its predictions in chunks.

Images are decoded and preprocessed ahead in threads (OpenCV and numpy release the interpreter lock), lanes run batches
through network and decoding, and another thread writes chunks. Batches never cross a chunk and are formed only from the
run's order, so the numbers of workers and lanes cannot change a byte.

A lane on a CPU computes with one thread. Several parallel lanes use the cores better than one network that spreads
every small convolution over them, and the result of a batch does not depend on the machine's number of cores.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from zoo_core.datatypes import ImageSize
from zoo_core.errors import PluginError, ZooError
from zoo_core.runs.predictions import Chunk, PredictionStore

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from typing_extensions import Self

    from zoo_core.datatypes import Decode, EvalDataset, ModelBundle, Prediction, Preprocess

CHUNK_IMAGES = 64
"""Images per prediction file, rounded up to whole batches: the most that an interruption can lose."""

CALIBRATION_BATCH_SIZE = 8
"""Fixed, so that encodings do not depend on the batch size of the stages."""

MAX_LANES = 16
"""Most batches in flight on a CPU; each needs memory for a batch of activations."""

_CUDA_LANES = 2  # one decodes while the other uses the device


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """Settings of a stage's run; ``batch_size`` is recorded because it can change a quantized network's predictions.

    Attributes:
        batch_size: Images per forward pass.
        workers: Threads that decode and preprocess; 0 uses the calling thread.
        device: A torch device string.
        max_lanes: Most batches in flight; fewer need less memory, and results do not depend on it.
    """

    batch_size: int
    workers: int
    device: str
    max_lanes: int = MAX_LANES


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceStats:
    """Time taken by a stage.

    Attributes:
        num_images: Images run; those whose chunks were already complete are not counted.
        seconds: Wall time from the first image read to the last chunk on disk.
        network_seconds: Part of it spent in the network's forward pass; the mean over the lanes.
    """

    num_images: int
    seconds: float
    network_seconds: float


def load_inputs(
    dataset: EvalDataset, image_ids: Sequence[str], preprocess: Preprocess, workers: int
) -> Generator[tuple[NDArray[np.float32], ImageSize], None, None]:
    """Yield each image's network input ``(C, H, W)`` and original size, in the order of ``image_ids``.

    Raises:
        DataError: An image is missing or damaged; the images before it have been yielded.
    """

    def load(image_id: str) -> tuple[NDArray[np.float32], ImageSize]:
        image = dataset.image(image_id)
        return preprocess(image), ImageSize(width_px=image.shape[1], height_px=image.shape[0])

    if workers == 0:
        yield from map(load, image_ids)
        return
    remaining = iter(image_ids)
    with ThreadPoolExecutor(workers, thread_name_prefix="zoo-eval-image") as pool:
        # A window of a few images per worker keeps memory constant however many images there are.
        ahead: deque[Future[Any]] = deque(pool.submit(load, image_id) for image_id in islice(remaining, 8 * workers))
        try:
            while ahead:
                yield ahead.popleft().result()
                for image_id in islice(remaining, 1):
                    ahead.append(pool.submit(load, image_id))
        finally:
            for future in ahead:
                future.cancel()


def predict(
    network: torch.nn.Module,
    bundle: ModelBundle,
    dataset: EvalDataset,
    image_ids: Sequence[str],
    store: PredictionStore,
    settings: InferenceSettings,
    advance: Callable[[int], None],
) -> InferenceStats:
    """Run a network over images and store its predictions; chunks already in the store are skipped.

    Args:
        network: The stage's network, in eval mode on ``settings.device``.
        bundle: Provides ``preprocess`` and ``decode``.
        dataset: Provides the images.
        image_ids: In the order to run.
        store: Receives the chunks one after another.
        settings: Batch size, workers, device.
        advance: Called with the number of images done since the last call.

    Raises:
        DataError: An image cannot be read; complete chunks are kept.
        PluginError: ``decode`` did not return one prediction per image.
        RunError: A chunk cannot be written.
    """
    chunks = chunk_ids(image_ids, settings.batch_size)
    missing = store.missing(chunks)
    todo = [image_id for index in missing for image_id in chunks[index]]
    sizes = [
        len(chunks[index][at : at + settings.batch_size])
        for index in missing
        for at in range(0, len(chunks[index]), settings.batch_size)
    ]
    started = time.perf_counter()
    with (
        _Lanes(network, bundle.decode, settings) as lanes,
        contextlib.closing(load_inputs(dataset, todo, bundle.preprocess, settings.workers)) as inputs,
        contextlib.closing(lanes.run(list(islice(inputs, size)) for size in sizes)) as batches,
        ThreadPoolExecutor(1, thread_name_prefix="zoo-eval-store") as writer,
    ):
        writing: Future[Any] | None = None
        for index in missing:
            ids = chunks[index]
            predictions: list[Prediction] = []
            finite: list[bool] = []
            while len(predictions) < len(ids):
                batch = next(batches)
                predictions.extend(batch.predictions)
                finite.extend(batch.finite)
                advance(len(batch.predictions))
            if writing is not None:
                writing.result()
            nonfinite = tuple(itertools.compress(ids, (not own for own in finite)))
            chunk = Chunk(index=index, image_ids=ids, predictions=tuple(predictions), nonfinite_ids=nonfinite)
            writing = writer.submit(store.write, chunk)
        if writing is not None:
            writing.result()
    return InferenceStats(
        num_images=len(todo), seconds=time.perf_counter() - started, network_seconds=lanes.network_seconds
    )


def chunk_ids(image_ids: Sequence[str], batch_size: int) -> list[tuple[str, ...]]:
    """Split image ids into prediction files, in order: ``CHUNK_IMAGES`` each, rounded up to whole batches."""
    size = -(-CHUNK_IMAGES // batch_size) * batch_size
    return [tuple(image_ids[start : start + size]) for start in range(0, len(image_ids), size)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """Predictions of a batch.

    Attributes:
        predictions: One per image; ``without_rows`` where the image is not finite.
        finite: False for each image for which the network or ``decode`` returned infinity or not-a-number.
    """

    predictions: tuple[Prediction, ...]
    finite: tuple[bool, ...]


def decode_finite(decode: Decode, outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> Decoded:
    """Decode a batch; an image with a value that is not finite gets no prediction, so that it counts as wrong.

    Ranking what is left of such outputs would give a number that an argmax on a device does not. ``decode`` gets zeros
    in place of the outputs of these images, because few decoders are written for anything else.

    Raises:
        PluginError: ``decode`` did not return one prediction per image.
    """
    import torch

    num_images = len(sizes)
    finite = torch.ones(num_images, dtype=torch.bool)
    for output in outputs:
        # An output without the batch's axis says nothing about a single image.
        whole = output.dim() > 0 and len(output) == num_images
        finite &= torch.isfinite(output.reshape(num_images, -1)).all(1) if whole else torch.isfinite(output).all()
    if not finite.all():
        keep = [output.dim() > 0 and len(output) == num_images for output in outputs]
        outputs = tuple(
            torch.where(finite.reshape(-1, *[1] * (output.dim() - 1)), output, 0) if own else torch.zeros_like(output)
            for output, own in zip(outputs, keep, strict=True)
        )
    predictions = decode(outputs, sizes)
    if len(predictions) != num_images:
        raise PluginError(
            f"decode returned {len(predictions)} predictions for a batch of {num_images} images.",
            fix="return one prediction per image, an empty one if nothing was detected.",
        )
    sound = [
        is_finite and _is_scorable(prediction)
        for prediction, is_finite in zip(predictions, finite.tolist(), strict=True)
    ]
    return Decoded(
        predictions=tuple(
            prediction if own else prediction.without_rows() for prediction, own in zip(predictions, sound, strict=True)
        ),
        finite=tuple(sound),
    )


def _is_scorable(prediction: Prediction) -> bool:
    """Return False for rows with infinity or not-a-number; in a whole image such a value can mean "unknown"."""
    import numpy as np

    arrays = [np.asarray(array) for array in prediction.arrays().values()]
    if all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
        return True
    return prediction.without_rows() is prediction


_Batch: TypeAlias = "list[tuple[NDArray[np.float32], ImageSize]]"


class _Lanes:
    """Runs batches through network and decoding in threads.

    On a CPU every lane has a copy of the network, because a forward pass may keep state in its modules (AIMET's
    quantized modules swap their parameters during it); the copies share their tensors. On any other device
    the lanes take turns with one network.

    Args:
        network: Not modified.
        decode: The bundle's ``decode``.
        settings: Device and number of lanes.
    """

    def __init__(self, network: torch.nn.Module, decode: Decode, settings: InferenceSettings) -> None:
        import torch

        self._decode = decode
        self._device = device = settings.device
        self._num_threads = torch.get_num_threads()
        on_cpu = torch.device(device).type == "cpu"
        self.num_lanes = min(self._num_threads if on_cpu else _CUDA_LANES, settings.max_lanes)
        self._networks: queue.SimpleQueue[torch.nn.Module] = queue.SimpleQueue()
        for own in _copies(network, self.num_lanes) if on_cpu else [network]:
            self._networks.put(own)
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(
            self.num_lanes, thread_name_prefix="zoo-eval-lane", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._pool.shutdown(cancel_futures=True)
        # A lane's setting applies to its own thread, but threads started later would inherit it.
        torch.set_num_threads(self._num_threads)

    @property
    def network_seconds(self) -> float:
        """Time inside forward passes so far, the mean over the lanes."""
        return self._seconds / self.num_lanes

    def run(self, batches: Iterator[_Batch]) -> Generator[Decoded, None, None]:
        """Yield the predictions of each batch, in order; all batches before an unreadable one are yielded first."""
        ahead: deque[Future[Decoded]] = deque()
        unreadable: ZooError | None = None
        more = True
        while more or ahead:
            try:
                batch = next(batches, None) if more else None
            except ZooError as error:
                batch, unreadable = None, error
            more = batch is not None
            if batch is not None:
                ahead.append(self._pool.submit(self._predict, batch))
            # One more batch than there are lanes is ready, so that no lane waits for this thread.
            if ahead and (not more or len(ahead) > self.num_lanes + 1):
                yield ahead.popleft().result()
        if unreadable is not None:
            raise unreadable

    def _predict(self, batch: _Batch) -> Decoded:
        arrays, sizes = [array for array, _ in batch], [size for _, size in batch]
        network = self._networks.get()
        try:
            started = time.perf_counter()
            outputs = run_batch(network, arrays, self._device)
            with self._lock:
                self._seconds += time.perf_counter() - started
        finally:
            self._networks.put(network)
        return decode_finite(self._decode, outputs, sizes)


def _copies(network: torch.nn.Module, num_copies: int) -> list[torch.nn.Module]:
    """Return copies of a network that share one set of tensors, weights channels last like the batches."""
    import torch

    # Otherwise a convolution would convert its weights to the batch's format in every forward pass.
    first = copy.deepcopy(network).to(memory_format=torch.channels_last)
    tensors = {id(tensor): tensor for tensor in itertools.chain(first.parameters(), first.buffers())}
    return [first, *(copy.deepcopy(first, dict(tensors)) for _ in range(num_copies - 1))]


def run_batch(network: torch.nn.Module, arrays: Sequence[NDArray[np.float32]], device: str) -> tuple[torch.Tensor, ...]:
    """Stack preprocessed images, run the network, and return its outputs on the CPU, batch axis first."""
    import torch

    with torch.inference_mode():
        outputs = network(stack(arrays, device))
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    return tuple(output.cpu() for output in outputs)


def stack(arrays: Sequence[NDArray[np.float32]], device: str) -> torch.Tensor:
    """Stack one ``(B, C, H, W)`` batch on the device, channels last: which makes CPU convolutions a third faster."""
    import torch

    first = torch.from_numpy(arrays[0])
    layout = torch.channels_last if first.dim() == 3 else torch.contiguous_format
    batch = torch.empty((len(arrays), *first.shape), dtype=first.dtype, memory_format=layout)
    for own, array in zip(batch, arrays, strict=True):
        own.copy_(torch.from_numpy(array))  # directly into the batch: stacking first would copy twice
    return batch.to(device)


class CalibrationSet:
    """Reads and preprocesses calibration images once and keeps them in memory (1.1 MB each at 300 x 300).

    Args:
        dataset: The calibration split.
        image_ids: The drawn ids, in the order drawn.
        preprocess: The model's ``preprocess``.
        settings: Workers and device; its batch size is ignored: batches hold ``CALIBRATION_BATCH_SIZE`` images.
        advance: Called with the number of images read since the last call.
    """

    def __init__(
        self,
        dataset: EvalDataset,
        image_ids: Sequence[str],
        preprocess: Preprocess,
        settings: InferenceSettings,
        advance: Callable[[int], None],
    ) -> None:
        self.num_images = len(image_ids)
        self._device = settings.device
        self._batches: list[torch.Tensor] = []
        inputs = load_inputs(dataset, image_ids, preprocess, settings.workers)
        while batch := [array for array, _ in islice(inputs, CALIBRATION_BATCH_SIZE)]:
            self._batches.append(stack(batch, "cpu"))
            advance(len(batch))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the batches on the run's device."""
        return (batch.to(self._device) for batch in self._batches)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)
