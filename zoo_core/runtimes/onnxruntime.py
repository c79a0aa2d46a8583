"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
}


class OnnxSession:
    """Computes an ONNX model; called with arrays by input name, returns arrays by output name.

    Args:
        model: Serialized.
        optimize: Let ONNX Runtime rewrite the graph, which makes integer operations of Q/DQ pairs; without it every
            node is computed in float as the graph says.
        num_threads: Threads of an operation.
    """

    def __init__(self, model: bytes, *, optimize: bool, num_threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.log_severity_level = 3  # its warnings go to stderr, among the progress bars
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._types = {node.name: _TYPES[node.type] for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; inputs that the model does not have are ignored."""
        given = {name: inputs[name].astype(kind) for name, kind in self._types.items()}
        return dict(zip(self._outputs, self._session.run(self._outputs, given), strict=True))
