"""ONNX Runtime: what it says about the graph that it executes, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from quantized_networks import NUM_MACS, image, layers_in, quantized_model, quantized_network
from zoo_core.datatypes import LoadOptions
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.integer_coverage import integer_coverage
from zoo_core.runtimes.onnxruntime import OnnxRuntime
from zoo_core.runtimes.optimized import executed_nodes
from zoo_core.runtimes.parity import cut_at_quantizers


def convolutions(model: bytes) -> list[str]:
    return [node.name for node in onnx.load_model_from_string(model).graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize("per_channel", [False, True])
def test_every_layer_is_computed_in_integers_by_one_node(per_channel: bool) -> None:
    model = quantized_model(per_channel=per_channel)

    executed = OnnxRuntime().load(model, LoadOptions()).coverage()

    claimed = [one for one in executed if set(one.computes) & set(convolutions(model))]
    assert [one.computes for one in claimed] == [(name,) for name in convolutions(model)]
    assert {(one.operation, one.precision, one.device) for one in claimed} == {("QLinearConv", "integer", "CPU")}
    assert integer_coverage(model, executed).share == 1


def test_the_layer_behind_a_float_input_is_in_float_and_says_so() -> None:
    model = quantized_model(quantized_input=False)

    found = integer_coverage(model, OnnxRuntime().load(model, LoadOptions()).coverage())

    assert found.share == pytest.approx(1 - NUM_MACS["first"] / sum(NUM_MACS.values()))
    (first,) = found.nodes
    assert (first.name, first.macs) == ("/first/Conv", NUM_MACS["first"])
    assert (first.precision, first.reason) == ("float", "its input is not quantized")


def test_a_float_network_has_no_integer_products() -> None:
    model = onnx.load_model_from_string(quantized_model())
    (weight,) = (node for node in model.graph.node if node.name == "last.weight/DequantizeLinear")
    model.graph.node.remove(weight)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 8, 1, 1), np.float32), weight.output[0]))
    serialized = model.SerializeToString()

    found = integer_coverage(serialized, OnnxRuntime().load(serialized, LoadOptions()).coverage())

    assert [(one.name, one.reason) for one in found.nodes] == [("/last/Conv", "its weight is not quantized")]


def test_layers_are_recognized_by_their_weights_where_names_are_lost(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(quantized_model())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load_model_from_string((tmp_path / "optimized.onnx").read_bytes())
    for index, node in enumerate(optimized.graph.node):
        node.name = f"node {index}"

    claimed = [name for one in executed_nodes(model, optimized) for name in one.computes]

    assert Counter(claimed) == Counter(["/first/Conv", "/depthwise/Conv", "/last/Conv"])


def test_every_layer_of_the_cut_graph_is_computed_from_the_integers_that_it_is_given() -> None:
    network = quantized_network()
    session = OnnxRuntime().load(cut_at_quantizers(quantized_model()), LoadOptions())

    found = layers_in(session, network)

    assert list(found) == ["first/input", "relu", "depthwise", "last"]
    assert all(one.max_lsb <= 1 and one.differing < 0.1 for one in found.values())


def test_an_operation_that_onnx_runtime_does_not_have_is_named() -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="the odd one", domain="com.example")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    model = helper.make_model(
        helper.make_graph([node], "graph", [x], [y]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)],
        ir_version=8,
    )

    with pytest.raises(RuntimeUnsupportedError, match=r"onnxruntime [\d.]+ cannot load the network: .*Frobnicate"):
        OnnxRuntime().load(model.SerializeToString(), LoadOptions())


def test_an_onnx_runtime_that_cannot_be_imported_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = OnnxRuntime().availability()
    assert (found.version, found.fix) == (None, "pip install onnxruntime")
    assert "onnxruntime cannot be imported" in str(found.reason)


def test_threads_and_exact_products_reach_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    real = onnxruntime.InferenceSession

    def recorded(model: bytes, options: Any, **rest: Any) -> Any:
        given.append(options)
        return real(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    session = OnnxRuntime().load(quantized_model(), LoadOptions(num_threads=3, exact_products=True))
    session.coverage()

    assert [one.intra_op_num_threads for one in given] == [3, 3]
    assert {one.get_session_config_entry("session.x64quantprecision") for one in given} == {"1"}


def test_nothing_is_sent_or_left_behind(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from zoo_core.datatypes import LoadOptions\n"
        "from zoo_core.runtimes.onnxruntime import OnnxRuntime\n"
        "OnnxRuntime().load(Path(sys.argv[1]).read_bytes(), LoadOptions()).coverage()\n"
    )
    model, here = tmp_path / "model.onnx", tmp_path / "here"
    model.write_bytes(quantized_model())
    here.mkdir()
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environ |= {
        "HOME": str(here),
        "TMPDIR": str(here),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(  # noqa: S603  # our own interpreter and program
        [sys.executable, "-c", program, str(model)], cwd=here, env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(here.rglob("*")) == []  # the telemetry of ONNX Runtime keeps a device's identifier there


def test_coverage_leaves_the_session_as_it_was() -> None:
    session = OnnxRuntime().load(quantized_model(), LoadOptions())
    before = session({"input": image().numpy()})["output"]
    session.coverage()
    assert np.array_equal(session({"input": image().numpy(), "another": image().numpy()})["output"], before)
