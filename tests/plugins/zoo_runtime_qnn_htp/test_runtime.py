"""The HTP emulator: layers against the simulation, its report of integers, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from quantized_networks import image, layers_in, quantized_model, quantized_network
from zoo_core.datatypes import LoadOptions
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.integer_coverage import integer_coverage
from zoo_core.runtimes.parity import cut_at_quantizers
from zoo_core.runtimes.probes import probed
from zoo_runtime_qnn_htp.runtime import QnnHtpRuntime

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")

LAYERS = ["/first/Conv", "/depthwise/Conv", "/last/Conv"]


def with_unsupported_node() -> bytes:
    """The network with an operation behind it that the HTP does not have."""
    model = onnx.load_model_from_string(quantized_model())
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["inner" if name == "output" else name for name in node.output]
    model.graph.node.append(helper.make_node("Det", ["inner"], ["output"], name="determinant"))
    output.CopyFrom(helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [1, 4]))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("per_channel", [False, True])
def test_every_layer_is_close_to_the_integers_of_the_simulation(per_channel: bool) -> None:
    network = quantized_network(per_channel=per_channel)
    session = QnnHtpRuntime().load(cut_at_quantizers(quantized_model(per_channel=per_channel)), LoadOptions())

    found = layers_in(session, network)

    assert list(found) == ["first/input", "relu", "depthwise", "last"]
    assert all(one.max_lsb <= 2 and one.differing < 0.25 for one in found.values())


@pytest.mark.parametrize("per_channel", [False, True])
def test_every_layer_is_computed_in_integers_on_the_htp(per_channel: bool) -> None:
    model = quantized_model(per_channel=per_channel)

    executed = QnnHtpRuntime().load(model, LoadOptions()).coverage()

    assert sorted(name for one in executed for name in one.computes if name in LAYERS) == sorted(LAYERS)
    assert {one.device for one in executed} == {"HTP"}
    assert integer_coverage(model, executed).share == 1


def test_a_node_that_would_run_on_the_cpu_is_named_and_refused() -> None:
    with pytest.raises(
        RuntimeUnsupportedError, match=r"does not execute 1 node on the HTP: determinant \(.*fallback to CPU EP"
    ):
        QnnHtpRuntime().load(with_unsupported_node(), LoadOptions())


def test_a_node_that_may_run_on_the_cpu_is_reported_as_elsewhere() -> None:
    model = with_unsupported_node()

    session = QnnHtpRuntime().load(model, LoadOptions(allow_fallback=True))

    found = integer_coverage(model, session.coverage())
    assert found.share == 1
    assert [(one.name, one.operation, one.device, one.elsewhere) for one in found.nodes] == [
        ("determinant", "Det", "CPU", True)
    ]
    assert session({"input": image().numpy()})["output"].shape == (1, 4)


def test_a_graph_for_any_batch_size_is_refused() -> None:
    with pytest.raises(RuntimeUnsupportedError, match=r"input 'input' has the shape \(batch, 3, 8, 8\)"):
        QnnHtpRuntime().load(quantized_model(batch_size=None), LoadOptions())


def test_threads_get_their_own_results() -> None:
    session = QnnHtpRuntime().load(quantized_model(), LoadOptions())
    inputs = [np.random.default_rng(seed).random((1, 3, 8, 8), dtype=np.float32) for seed in range(3)]
    expected = [session({"input": one})["output"] for one in inputs]

    def work(index: int) -> list[bool]:
        calls = (session({"input": inputs[index]})["output"] for _ in range(10))
        return [np.array_equal(found, expected[index]) for found in calls]

    with ThreadPoolExecutor(len(inputs)) as pool:
        assert all(all(equal) for equal in pool.map(work, range(len(inputs))))
    assert not np.array_equal(expected[0], expected[1])


def test_the_emulators_8_bit_products_are_right() -> None:
    assert probed(QnnHtpRuntime(), LoadOptions()).remedy is None


def test_nothing_is_written_to_stdout_or_left_behind(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from zoo_core.datatypes import LoadOptions\n"
        "from zoo_runtime_qnn_htp.runtime import QnnHtpRuntime\n"
        "session = QnnHtpRuntime().load(Path(sys.argv[1]).read_bytes(), LoadOptions())\n"
        "import numpy\n"
        "session({'input': numpy.zeros((1, 3, 8, 8), numpy.float32)})\n"
        "print('result')\n"
    )
    model, here = tmp_path / "model.onnx", tmp_path / "here"
    model.write_bytes(quantized_model())
    here.mkdir()
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environ |= {"HOME": str(here), "TMPDIR": str(here), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(  # noqa: S603  # our own interpreter and program
        [sys.executable, "-c", program, str(model)], cwd=here, env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "result\n", "")
    assert list(here.rglob("*")) == []
