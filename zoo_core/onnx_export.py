"""Exports networks to ONNX, the one place that calls ``torch.onnx.export``."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import torch

from zoo_core.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

INPUT = "input"
"""Name of the input of every exported graph."""


def export_onnx(
    network: nn.Module,
    x: torch.Tensor,
    *,
    opset: int,
    dynamic_batch: bool,
    fix: str,
    custom_opsets: Mapping[str, int] | None = None,
) -> bytes:
    """Return a network as a serialized ONNX model; see ``output_names`` for the names of its outputs.

    Args:
        network: In eval mode; not modified.
        x: Example input, ``(B, C, H, W)``, on the network's device; a static graph takes batches of this size.
        opset: Of the operations.
        dynamic_batch: Let the first axis of inputs and outputs have any length.
        fix: What to do if torch cannot export the network.
        custom_opsets: Version by domain of operations that ONNX does not have.

    Raises:
        RunError: torch cannot export the network; the error has the first line of torch's message.
    """
    file: Any = io.BytesIO()  # torch's annotation omits the types that the tracing exporter accepts
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The tracing exporter takes 1 s, its successor (dynamo=True) 6 s in torch 2.15 for the same graph; every
            # supported torch has both. It warns that it is deprecated, and about every constant shape.
            warnings.simplefilter("ignore")
            names = output_names(network(x))
            torch.onnx.export(
                network,
                (x,),
                file,
                input_names=[INPUT],
                output_names=names,
                dynamic_axes={name: {0: "batch"} for name in (INPUT, *names)} if dynamic_batch else None,
                opset_version=opset,
                custom_opsets=custom_opsets,
                dynamo=False,
            )
    except Exception as error:  # the exporter may raise anything on a plugin's network
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"torch cannot export {type(network).__name__} to ONNX: {lines[0]}", fix=fix) from error
    model: bytes = file.getvalue()
    return model


def output_names(outputs: Any) -> list[str]:
    """Return the names of a graph's outputs: ``output`` for one, ``output_0``, ``output_1``, ... for several."""
    if isinstance(outputs, torch.Tensor) or len(outputs) == 1:
        return ["output"]
    return [f"output_{index}" for index in range(len(outputs))]
