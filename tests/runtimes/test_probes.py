"""Runtimes with wrong integers are found: those of some processors, and those that are always wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from zoo_core.datatypes import Availability, ExecutedNode, LoadOptions, Runtime, RuntimeSession
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.onnxruntime import OnnxRuntime
from zoo_core.runtimes.probes import probed


class Integers:
    """Computes Q/DQ convolutions as an AVX2 kernel does: sums of two products of uint8 and int8 are cut at 16 bits."""

    def __init__(self, model: bytes, *, saturate: bool) -> None:
        graph = onnx.load_model_from_string(model).graph
        self._saturate = saturate
        self._constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._outputs = [one.name for one in graph.output]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: self._quantized(name, inputs) for name in self._outputs}

    def coverage(self) -> Sequence[ExecutedNode]:
        return ()

    def _quantized(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        quantize = self._producers[name]
        _, out_scale, out_zero = (self._constants.get(one) for one in quantize.input)
        conv = self._producers[quantize.input[0]]
        x_scale = self._constants[self._producers[self._producers[conv.input[0]].input[0]].input[1]]
        w, w_scale, w_zero = (self._constants[one] for one in self._producers[conv.input[1]].input)
        settings = {one.name: onnx.helper.get_attribute_value(one) for one in conv.attribute}
        x = np.rint(inputs["x"][0] / x_scale).astype(np.int64)
        pad, kernel = settings["pads"][0], settings["kernel_shape"]
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))  # (C, H, W, k, k)
        sums = []
        for output, weight in enumerate(w.astype(np.int64) - w_zero):
            own = windows if settings["group"] == 1 else windows[output : output + 1]
            products = (np.moveaxis(own, 0, 2) * weight).reshape(*x.shape[1:], -1)
            products = np.pad(products, ((0, 0), (0, 0), (0, products.shape[-1] % 2)))
            pairs = products[..., 0::2] + products[..., 1::2]
            sums.append(
                (np.clip(pairs, -(2**15), 2**15 - 1) if self._saturate and w.dtype == np.int8 else pairs).sum(-1)
            )
        scaled = np.rint(np.stack(sums) * (x_scale * w_scale / out_scale)) + out_zero
        result: NDArray[Any] = np.clip(scaled, 0, 255).astype(np.uint8)
        return result[None]


class Fake:
    name = "fake"
    quantized_input = emulated = False

    def __init__(self, *, saturates: bool = False, saturates_always: bool = False) -> None:
        self.saturates, self.saturates_always = saturates, saturates_always

    def availability(self) -> Availability:
        return Availability(version="1.23.1")

    def load(self, model: bytes, options: LoadOptions) -> RuntimeSession:
        return Integers(model, saturate=self.saturates_always or (self.saturates and not options.exact_products))


def runtimes() -> list[Runtime]:
    return [OnnxRuntime(), Fake()]


@pytest.mark.parametrize("runtime", runtimes(), ids=lambda one: one.name)
@pytest.mark.parametrize("exact_products", [False, True])
def test_a_runtime_that_is_right_is_used_as_asked(runtime: Runtime, exact_products: bool) -> None:
    options = LoadOptions(num_threads=2, exact_products=exact_products)
    found = probed(runtime, options)
    assert (found.options, found.remedy) == (options, None)


def test_a_runtime_that_saturates_is_told_to_avoid_it_and_the_record_says_so() -> None:
    found = probed(Fake(saturates=True), LoadOptions(num_threads=2))
    assert found.options == LoadOptions(num_threads=2, exact_products=True)
    assert found.remedy is not None
    assert found.remedy.startswith("8-bit products saturate on this processor; fake is told to avoid")


@pytest.mark.parametrize("exact_products", [False, True])
def test_a_runtime_that_is_always_wrong_is_refused_with_its_version_and_a_value(exact_products: bool) -> None:
    words = r"a pointwise convolution with int8 weights gives 192 where 255 is right"
    with pytest.raises(RuntimeUnsupportedError, match=rf"fake 1\.23\.1 computes wrong integers: {words}"):
        probed(Fake(saturates_always=True), LoadOptions(exact_products=exact_products))


def test_a_probe_reaches_the_integer_kernels_of_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bytes] = []
    real = OnnxRuntime.load

    def recorded(self: OnnxRuntime, model: bytes, options: LoadOptions) -> Any:
        loaded.append(model)
        return real(self, model, options)

    monkeypatch.setattr(OnnxRuntime, "load", recorded)
    probed(OnnxRuntime(), LoadOptions())

    assert len(loaded) == 2
    for model in loaded:
        executed = real(OnnxRuntime(), model, LoadOptions()).coverage()
        assert [one.precision for one in executed if one.operation.endswith("Conv")] == ["integer"] * 3
