"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo_core.datatypes import Availability, ExecutedNode, LoadOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class OnnxRuntime:
    """ONNX Runtime on the CPU, a runtime of ``zoo_runtimes``."""

    name = "onnxruntime"
    quantized_input = False
    emulated = False

    def availability(self) -> Availability:
        """Return the version of the library, which is a requirement of zoo-eval."""
        import onnxruntime

        return Availability(version=str(onnxruntime.__version__))

    def load(self, model: bytes, options: LoadOptions) -> OnnxSession:
        """Load a model with all of ONNX Runtime's optimizations."""
        return OnnxSession(model, optimize=True, num_threads=options.num_threads)


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
        self._types = {node.name: _dtype(node.type) for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; inputs that the model does not have are ignored."""
        given = {name: inputs[name].astype(kind) for name, kind in self._types.items()}
        return dict(zip(self._outputs, self._session.run(self._outputs, given), strict=True))

    def coverage(self) -> Sequence[ExecutedNode]:
        """Return the nodes of the optimized graph."""
        raise NotImplementedError


def _dtype(onnx_type: str) -> str:
    """Return numpy's name of ``tensor(float)`` and its like."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
