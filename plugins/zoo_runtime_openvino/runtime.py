"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib.metadata
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoo_core.datatypes import Availability, ExecutedNode, LoadOptions
from zoo_core.errors import RuntimeUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

_INSTALL = "pip install 'zoo-eval[openvino]'"
_TELEMETRY = "openvino_telemetry"


class OpenVinoRuntime:
    """OpenVINO on the CPU, a runtime of ``zoo_runtimes``."""

    name = "openvino"
    quantized_input = False
    emulated = False

    def availability(self) -> Availability:
        """Return the installed version, or what to install."""
        try:
            return Availability(version=importlib.metadata.version("openvino"))
        except importlib.metadata.PackageNotFoundError:
            return Availability(version=None, reason="OpenVINO is not installed.", fix=_INSTALL)

    def load(self, model: bytes, options: LoadOptions) -> OpenVinoSession:
        """Compile a model for the CPU; what is not integer is computed in float32.

        Raises:
            RuntimeUnsupportedError: OpenVINO is not installed, or cannot execute the model.
        """
        available = self.availability()
        if available.reason is not None:
            raise RuntimeUnsupportedError(f"The runtime openvino cannot be used: {available.reason}", fix=available.fix)
        try:
            return OpenVinoSession(model, options)
        except ImportError as error:
            raise RuntimeUnsupportedError(f"The runtime openvino cannot be used: {error}", fix=_INSTALL) from error
        except RuntimeError as error:  # the class of all of OpenVINO's errors
            raise RuntimeUnsupportedError(
                f"openvino {available.version} cannot load the network: {_words(error)}",
                fix="upgrade openvino, or replace the operation that it names.",
            ) from error


class OpenVinoSession:
    """Compiled model; several threads may call it, each with an infer request of its own.

    Args:
        model: Serialized.
        options: ``exact_products`` turns OpenVINO's low-precision transformations off: every layer is then computed in
            float, since no option avoids the instructions alone.
    """

    def __init__(self, model: bytes, options: LoadOptions) -> None:
        import onnx

        with _without_telemetry():
            import openvino

        properties: dict[str, Any] = {
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": options.num_threads,
            # Without the hints a processor with bfloat16 computes float layers in it.
            "INFERENCE_PRECISION_HINT": "f32",
            "EXECUTION_MODE_HINT": "ACCURACY",
        }
        if options.exact_products:
            properties["LP_TRANSFORMS_MODE"] = False
        core = openvino.Core()
        self._model: onnx.ModelProto = onnx.load_model_from_string(model)
        self._compiled: Any = core.compile_model(core.read_model(model, b""), "CPU", properties)
        self._requests = threading.local()
        constants = {tensor.name for tensor in self._model.graph.initializer}
        names = [value.name for value in self._model.graph.input if value.name not in constants]
        self._types = {
            name: port.get_element_type().to_dtype()
            for port in self._compiled.inputs
            for name in names
            if name in port.get_names()
        }
        self._outputs = [value.name for value in self._model.graph.output]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; inputs that the model does not have are ignored."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        results = self._requests.own.infer({name: inputs[name].astype(kind) for name, kind in self._types.items()})
        return {name: results[index] for index, name in enumerate(self._outputs)}

    def coverage(self) -> Sequence[ExecutedNode]:
        """Return the nodes of the compiled graph."""
        from zoo_runtime_openvino.compiled import executed_nodes

        return executed_nodes(self._model, self._compiled.get_runtime_model())


def _words(error: RuntimeError) -> str:
    """Return the message without the lines on OpenVINO's own source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith(("Exception from ", "Check ", "FrontEnd ")))


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry, which reports every import to a server; OpenVINO has a stub for its absence."""
    missing = object()
    found = sys.modules.get(_TELEMETRY, missing)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # makes an import fail
    try:
        yield
    finally:
        if found is missing:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = found  # type: ignore[assignment]
