"""Model compiled for the HTP."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.datatypes import ExecutedNode, LoadOptions
from zoo_runtime_qnn_htp.compiled import executed_nodes, stem
from zoo_runtime_qnn_htp.library import devices, onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

SOC_MODEL = "69"
"""The chip that is emulated: SM8750 (Snapdragon 8 Elite) in Qualcomm's numbering.

Results depend on it. With onnxruntime-qnn 2.7 those of SM8550, SM8650 and SM8750 are equal; without a choice, an older
chip is emulated, which rounds differently and has too little memory for some networks with layers in float.
"""

_FAST_PREPARATION = {"htp_graph_finalization_optimization_mode": "1"}
"""Does not optimize across layers; the results are the same."""


class QnnHtpSession:
    """Compiled model; calls wait for each other, since Qualcomm does not promise that the emulator takes several.

    Args:
        model: With fixed shapes.
        options: ``exact_products`` has no effect, as the HTP's products do not saturate.
    """

    def __init__(self, model: onnx.ModelProto, options: LoadOptions) -> None:
        self._lock = threading.Lock()
        with tempfile.TemporaryDirectory(prefix="zoo-eval-") as folder:
            self._session = _load(model, options, Path(folder))
            self._executed = executed_nodes(model, _assigned(self._session), Path(folder))
        self._types = {node.name: _dtype(node.type) for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name; inputs that the model does not have are ignored."""
        given = {name: inputs[name].astype(kind) for name, kind in self._types.items()}
        with self._lock:
            outputs = self._session.run(self._outputs, given)
        return dict(zip(self._outputs, outputs, strict=True))

    def coverage(self) -> Sequence[ExecutedNode]:
        """Return the nodes of the compiled graphs, then those that run on the CPU."""
        return self._executed


def fallback_nodes(model: onnx.ModelProto, options: LoadOptions) -> list[str]:
    """Return the names of the nodes that would run on the CPU if that were allowed; empty if it does not help."""
    allowed = LoadOptions(num_threads=options.num_threads, allow_fallback=True)
    try:
        session = _load(model, allowed, None)
    except Exception:  # the error that is explained here is raised by the caller
        return []
    names = {node.name for node in model.graph.node}
    found = [stem(node.name, names) for node in _assigned(session).get("CPUExecutionProvider", ())]
    return [name for name in dict.fromkeys(found) if name]


def _load(model: onnx.ModelProto, options: LoadOptions, folder: Path | None) -> Any:
    """Load a model; the compiled graphs are described in JSON files of ``folder``."""
    library = onnxruntime()
    import onnxruntime_qnn
    from onnx import TensorProto

    settings = library.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = options.num_threads, 1
    settings.log_severity_level = 4  # an error is raised too, and its line on stderr would hide that
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(not options.allow_fallback)))
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    provider = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "soc_model": SOC_MODEL,
        "offload_graph_io_quantization": "0",  # otherwise the first and last node go to the CPU where that is allowed
    }
    if any(value.type.tensor_type.elem_type != TensorProto.FLOAT for value in model.graph.input):
        provider |= _FAST_PREPARATION  # a graph cut into layers: optimizing takes a minute there and saves nothing
    if folder is not None:
        provider |= {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": str(folder)}
    settings.add_provider_for_devices(devices(), provider)
    return library.InferenceSession(model.SerializeToString(), settings)


def _assigned(session: Any) -> dict[str, list[Any]]:
    """Return the nodes that ONNX Runtime gave to each provider."""
    found: dict[str, list[Any]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(part.get_nodes())
    return found


def _dtype(onnx_type: str) -> str:
    """Return numpy's name of ``tensor(float)`` and its like."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
