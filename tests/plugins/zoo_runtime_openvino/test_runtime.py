"""OpenVINO: layers against the simulation, its report of integers, and what it must not do."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from quantized_networks import (
    NUM_MACS,
    float_network,
    image,
    layers_in,
    quantized_model,
    quantized_network,
)
from zoo_core.datatypes import LoadOptions
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.quantization.export import export_encodings
from zoo_core.runtimes.integer_coverage import integer_coverage
from zoo_core.runtimes.parity import cut_at_quantizers
from zoo_core.runtimes.probes import probed
from zoo_runtime_openvino.runtime import OpenVinoRuntime

pytest.importorskip("openvino", reason="openvino is not installed")

LAYERS = ["/first/Conv", "/depthwise/Conv", "/last/Conv"]


@pytest.mark.parametrize("per_channel", [False, True])
def test_every_layer_gives_the_integers_of_the_simulation(per_channel: bool) -> None:
    network = quantized_network(per_channel=per_channel)
    session = OpenVinoRuntime().load(cut_at_quantizers(quantized_model(per_channel=per_channel)), LoadOptions())

    found = layers_in(session, network)

    assert list(found) == ["first/input", "relu", "depthwise", "last"]
    assert all(one.max_lsb <= 1 and one.differing < 0.02 for one in found.values())


def test_symmetric_weights_are_computed_in_integers() -> None:
    model = quantized_model()

    executed = OpenVinoRuntime().load(model, LoadOptions()).coverage()

    claimed = [one for one in executed if set(one.computes) & set(LAYERS)]
    assert sorted(name for one in claimed for name in one.computes if name in LAYERS) == sorted(LAYERS)
    assert {(one.operation, one.precision) for one in claimed} == {("Convolution", "integer")}
    assert integer_coverage(model, executed).share == 1


def test_asymmetric_weights_are_computed_in_float_and_the_reason_is_their_zero_point() -> None:
    model = quantized_model(per_channel=False)

    found = integer_coverage(model, OpenVinoRuntime().load(model, LoadOptions()).coverage())

    assert found.share == 0
    assert [one.name for one in found.nodes] == LAYERS
    assert {one.reason for one in found.nodes} == {"its weights have a zero point other than 0"}


def test_the_layer_behind_a_float_input_is_in_float() -> None:
    model = quantized_model(quantized_input=False)

    found = integer_coverage(model, OpenVinoRuntime().load(model, LoadOptions()).coverage())

    assert found.share == pytest.approx(1 - NUM_MACS["first"] / sum(NUM_MACS.values()))
    assert [(one.name, one.reason) for one in found.nodes] == [("/first/Conv", "its input is not quantized")]


def test_float_layers_are_computed_in_float32_on_processors_with_bfloat16_too() -> None:
    model = export_encodings(quantized_network(), image(), "1.0.0").model
    with torch.no_grad():
        expected = float_network()(image()).numpy()

    found = OpenVinoRuntime().load(model, LoadOptions())({"input": image().numpy()})["output"]

    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_exact_products_are_computed_in_float() -> None:
    model = quantized_model()
    session = OpenVinoRuntime().load(model, LoadOptions(exact_products=True))
    assert integer_coverage(model, session.coverage()).share == 0


def test_threads_get_their_own_results() -> None:
    session = OpenVinoRuntime().load(quantized_model(), LoadOptions())
    inputs = [np.random.default_rng(seed).random((1, 3, 8, 8), dtype=np.float32) for seed in range(4)]
    expected = [session({"input": one})["output"] for one in inputs]

    def work(index: int) -> list[bool]:
        calls = (session({"input": inputs[index]})["output"] for _ in range(50))
        return [np.array_equal(found, expected[index]) for found in calls]

    with ThreadPoolExecutor(len(inputs)) as pool:
        assert all(all(equal) for equal in pool.map(work, range(len(inputs))))
    assert not np.array_equal(expected[0], expected[1])


def test_the_8_bit_products_of_this_machine_are_right_or_a_remedy_is_found() -> None:
    assert probed(OpenVinoRuntime(), LoadOptions()).options.num_threads == 1


def test_an_operation_that_openvino_does_not_have_is_named() -> None:
    renamed = quantized_model().replace(b"QuantizeLinear", b"QuantizeLinEAR")
    with pytest.raises(RuntimeUnsupportedError, match=r"openvino [\d.]+ cannot load the network: .*QuantizeLinEAR"):
        OpenVinoRuntime().load(renamed, LoadOptions())


def test_nothing_is_sent_or_cached(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from zoo_core.datatypes import LoadOptions\n"
        "from zoo_runtime_openvino.runtime import OpenVinoRuntime\n"
        "OpenVinoRuntime().load(Path(sys.argv[1]).read_bytes(), LoadOptions())\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
        "import openvino.tools.ovc.telemetry_utils as used\n"
        "assert used.tm.__name__ == 'openvino.tools.ovc.telemetry_stub', used.tm\n"
    )
    model, home = tmp_path / "model.onnx", tmp_path / "home"
    model.write_bytes(quantized_model())
    home.mkdir()
    environ = {**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(  # noqa: S603  # our own interpreter and program
        [sys.executable, "-c", program, str(model)], cwd=home, env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert list(home.rglob("*")) == []
