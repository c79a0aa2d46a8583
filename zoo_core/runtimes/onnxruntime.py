"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.datatypes import Availability, ExecutedNode, LoadOptions
from zoo_core.errors import RuntimeUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_EXACT_PRODUCTS = "session.x64quantprecision"
"""Key of ONNX Runtime that avoids instructions that saturate sums of 8-bit products on x86-64 without VNNI."""


class OnnxRuntime:
    """ONNX Runtime on the CPU, a runtime of ``zoo_runtimes``."""

    name = "onnxruntime"
    quantized_input = False
    emulated = False

    def availability(self) -> Availability:
        """Return the version of the library, which is a requirement of zoo-eval."""
        try:
            return Availability(version=str(_library().__version__))
        except ImportError as error:
            return Availability(
                version=None, reason=f"onnxruntime cannot be imported: {error}.", fix="pip install onnxruntime"
            )

    def load(self, model: bytes, options: LoadOptions) -> OnnxSession:
        """Load a model with all of ONNX Runtime's optimizations.

        Raises:
            RuntimeUnsupportedError: ONNX Runtime cannot execute the model.
        """
        try:
            return OnnxSession(
                model, optimize=True, num_threads=options.num_threads, exact_products=options.exact_products
            )
        except Exception as error:  # its classes of errors have no common base
            raise RuntimeUnsupportedError(
                f"onnxruntime {self.availability().version} cannot load the network: {error}",
                fix="upgrade onnxruntime, or replace the operation that it names.",
            ) from error


class OnnxSession:
    """Computes an ONNX model; called with arrays by input name, returns arrays by output name.

    Args:
        model: Serialized.
        optimize: Let ONNX Runtime rewrite the graph, which makes integer operations of Q/DQ pairs; without it every
            node is computed in float as the graph says.
        num_threads: Threads of an operation.
        exact_products: Avoid instructions that saturate sums of 8-bit products.
    """

    def __init__(self, model: bytes, *, optimize: bool, num_threads: int = 1, exact_products: bool = False) -> None:
        onnxruntime = _library()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.log_severity_level = 3  # its warnings go to stderr, among the progress bars
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        if exact_products:
            options.add_session_config_entry(_EXACT_PRODUCTS, "1")
        self._model, self._options = model, options
        self._session = self._loaded()
        self._types = {node.name: _dtype(node.type) for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; inputs that the model does not have are ignored."""
        given = {name: inputs[name].astype(kind) for name, kind in self._types.items()}
        return dict(zip(self._outputs, self._session.run(self._outputs, given), strict=True))

    def coverage(self) -> Sequence[ExecutedNode]:
        """Return the nodes of the optimized graph, for which the model is loaded a second time."""
        import onnx

        from zoo_core.runtimes.optimized import executed_nodes

        with tempfile.TemporaryDirectory(prefix="zoo-eval-") as folder:
            path = Path(folder) / "optimized.onnx"
            self._options.optimized_model_filepath = str(path)
            try:
                self._loaded()
            finally:
                self._options.optimized_model_filepath = ""
            optimized = onnx.load_model_from_string(path.read_bytes())
        return executed_nodes(onnx.load_model_from_string(self._model), optimized)

    def _loaded(self) -> Any:
        return _library().InferenceSession(self._model, self._options, providers=["CPUExecutionProvider"])


def _library() -> Any:
    """Import ONNX Runtime with its telemetry off, unless the user turned it on.

    Since 1.32 at the latest it sends events from Linux too, and writes a device's identifier into the home directory;
    only this variable prevents both, and only before the import.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def _dtype(onnx_type: str) -> str:
    """Return numpy's name of ``tensor(float)`` and its like."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
