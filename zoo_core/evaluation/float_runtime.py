"""Runs float stages in ONNX Runtime: exports the network and compares it with torch on the first images of a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from zoo_core.errors import RunError
from zoo_core.inference import InferenceSettings, decode_finite, load_inputs, run_batch
from zoo_core.onnx_export import INPUT, export_onnx
from zoo_core.runs.parts import AgreementRecord
from zoo_core.runtimes.onnxruntime import OnnxSession

if TYPE_CHECKING:
    from typing_extensions import Self

    from zoo_core.datatypes import EvalDataset, ModelBundle, Prediction

logger = logging.getLogger("zoo_eval.onnxruntime")

CHECKED_IMAGES = 8
"""Images on which both backends are compared before a stage runs; one batch if that is more."""

TOLERANCE = 1e-3
"""Largest difference from torch's output, relative to that output's largest magnitude, that counts as rounding.

Sums in another order differ by 1e-6 on a network of 86 layers; a wrong operator differs by 1e-1 and more."""

OPSET = 17
_USE_TORCH = "use --runtime torch."


class OnnxNetwork(nn.Module):
    """Computes an exported network in ONNX Runtime; called like the original network.

    The session has no threads of its own: it computes in the calling thread, so that lanes use the cores as they do
    with torch. Several threads may call a session at once; a copy is therefore the same object.

    Args:
        model: An ONNX model, serialized.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        self._session = OnnxSession(model, optimize=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs for ``(B, C, H, W)`` float32, batch axis first."""
        return tuple(map(torch.from_numpy, self._session({INPUT: x.contiguous().numpy()}).values()))

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """Network of a stage, exported for ONNX Runtime and checked.

    Attributes:
        network: On the CPU.
        runtime: Name of the runtime.
        agreement: Agreement with the torch network.
        seconds: Wall time of exporting and checking.
    """

    network: OnnxNetwork
    runtime: str
    agreement: AgreementRecord
    seconds: float

    @property
    def summary(self) -> str:
        """Return the result of the check in one line."""
        check = self.agreement
        return (
            f"onnxruntime agrees with torch to {check.max_difference:.1e} of the largest output on {check.num_images} "
            f"images; {check.num_same_predictions} have the same predictions ({self.seconds:.1f} s)"
        )


def export_checked(
    network: nn.Module,
    bundle: ModelBundle,
    dataset: EvalDataset,
    image_ids: Sequence[str],
    settings: InferenceSettings,
) -> Exported:
    """Export a float network and compare it with torch on the first images.

    Args:
        network: In eval mode on the CPU; not modified.
        bundle: Provides the example input, ``preprocess`` and ``decode``.
        dataset: Provides the images.
        image_ids: Ids of the stage; the first ``CHECKED_IMAGES`` are used, or the first batch if that is more.
        settings: Batch size and workers.

    Raises:
        RunError: torch cannot export the network, ONNX Runtime cannot run it, or their outputs differ.
        DataError: An image cannot be read.
    """
    started = time.perf_counter()
    exported = _load(export(network, bundle.example_input), type(network).__name__)
    num_images = max(CHECKED_IMAGES, settings.batch_size)
    inputs = load_inputs(dataset, image_ids[:num_images], bundle.preprocess, settings.workers)
    differences, same, num_compared = [0.0], 0, 0
    while batch := list(islice(inputs, settings.batch_size)):
        arrays, sizes = [array for array, _ in batch], [size for _, size in batch]
        expected = run_batch(network, arrays, "cpu")
        outputs = run_batch(exported, arrays, "cpu")
        differences += _differences(expected, outputs)
        decoded = [decode_finite(bundle.decode, found, sizes).predictions for found in (expected, outputs)]
        pairs = zip(*decoded, strict=True)
        same += sum(same_predictions(one, other) for one, other in pairs)
        num_compared += len(batch)
    agreement = AgreementRecord(
        tolerance=TOLERANCE, num_images=num_compared, max_difference=max(differences), num_same_predictions=same
    )
    if agreement.max_difference > TOLERANCE:
        raise RunError(
            f"ONNX Runtime's outputs differ from torch's by {agreement.max_difference:.2g} of the largest on the first "
            f"{num_compared} images; rounding gives less than {TOLERANCE:g}.",
            fix=_USE_TORCH,
        )
    result = Exported(
        network=exported, runtime="onnxruntime", agreement=agreement, seconds=time.perf_counter() - started
    )
    logger.info("%s", result.summary)
    return result


def export(network: nn.Module, example_input: torch.Tensor) -> bytes:
    """Export a network to ONNX for batches of any size.

    Args:
        network: In eval mode; not modified.
        example_input: ``(1, C, H, W)``, on the network's device.

    Raises:
        RunError: torch cannot export it.
    """
    return export_onnx(network, example_input, opset=OPSET, dynamic_batch=True, fix=_USE_TORCH)


def _load(model: bytes, name: str) -> OnnxNetwork:
    try:
        return OnnxNetwork(model)
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        raise RunError(f"ONNX Runtime cannot load the exported {name}: {error}", fix=_USE_TORCH) from error


def _differences(expected: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> list[float]:
    if [one.shape for one in expected] != [other.shape for other in outputs]:
        return [float("inf")]
    return [_difference(one, other) for one, other in zip(expected, outputs, strict=True) if one.numel()]


def _difference(expected: torch.Tensor, output: torch.Tensor) -> float:
    """Return the largest difference relative to the largest finite value; infinite if other values are not finite."""
    finite = torch.isfinite(expected)
    if not torch.equal(torch.where(finite, 0, expected).nan_to_num(), torch.where(finite, 0, output).nan_to_num()):
        return float("inf")
    if not torch.isfinite(output[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    one, other = expected[finite], output[finite]
    return float((one - other).abs().max()) / (float(one.abs().max()) or 1.0)


def same_predictions(one: Prediction, other: Prediction) -> bool:
    """Return True if two predictions have the same length, equal integers, and other values within TOLERANCE."""
    pairs = [(array, other.arrays()[name]) for name, array in one.arrays().items()]
    return all(
        a.shape == b.shape
        and (np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) if a.dtype.kind == "f" else np.array_equal(a, b))
        for a, b in pairs
    )
