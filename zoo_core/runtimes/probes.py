"""Finds runtimes whose 8-bit products are wrong on this processor, before they measure anything.

Instructions that multiply two pairs of 8-bit integers saturate their sum at 16 bits on x86-64 without VNNI
(https://github.com/microsoft/onnxruntime/issues/14642), and a release may simply be wrong on some processor
(https://github.com/microsoft/onnxruntime/issues/26324).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from zoo_core.errors import RuntimeUnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.datatypes import LoadOptions, Runtime

_CHANNELS, _SIZE = 64, 8
_INPUT_SCALE, _WEIGHT_SCALE = 2.0**-8, 2.0**-7
_OUTPUT_ZERO_POINT = 128
_WEIGHT_ZERO_POINT = 117


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How to load models in a runtime so that its integers are right.

    Attributes:
        options: For ``Runtime.load``.
        remedy: What was wrong and is avoided by ``options``, as a sentence; None where nothing was.
    """

    options: LoadOptions
    remedy: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Convolution of the probe; ``shift`` brings its sums into 8 bits."""

    name: str
    kernel: int
    groups: int
    outputs: int
    shift: int


_LAYERS = (
    _Layer(name="pointwise", kernel=1, groups=1, outputs=16, shift=14),
    _Layer(name="3x3", kernel=3, groups=1, outputs=16, shift=18),
    _Layer(name="depthwise", kernel=3, groups=_CHANNELS, outputs=_CHANNELS, shift=12),
)


def probed(runtime: Runtime, options: LoadOptions) -> Probe:
    """Compare convolutions of extreme values with exact integers, and find options under which they agree.

    Args:
        runtime: Available on this machine.
        options: Those that are wanted.

    Raises:
        RuntimeUnsupportedError: The integers are wrong under all options, or the runtime cannot load a probe.
    """
    wrong = _difference(runtime, options)
    if wrong is None:
        return Probe(options=options, remedy=None)
    if not options.exact_products:
        exact = replace(options, exact_products=True)
        still_wrong = _difference(runtime, exact)
        if still_wrong is None:
            remedy = (
                f"8-bit products saturate on this processor; {runtime.name} is told to avoid the instructions that do "
                "this, which may be slower."
            )
            return Probe(options=exact, remedy=remedy)
        wrong = still_wrong
    raise RuntimeUnsupportedError(
        f"{runtime.name} {runtime.availability().version} computes wrong integers: {wrong}.",
        fix=f"install another version of {runtime.name}, or leave this runtime out.",
    )


def _difference(runtime: Runtime, options: LoadOptions) -> str | None:
    """Return the first wrong layer with an expected and an actual value; None if all agree to 1 LSB."""
    values = _input()
    for kind in (np.int8, np.uint8):
        weights = {layer: _weight(layer, kind) for layer in _LAYERS}
        session = runtime.load(_model(weights), options)
        outputs = session({"x": values.astype(np.float32) * np.float32(_INPUT_SCALE)})
        for layer, weight in weights.items():
            found, expected = outputs[layer.name].astype(np.int64), _expected(layer, values, weight)
            far = np.abs(found - expected) > 1  # the rounding of the output may differ by one
            if far.any():
                place = tuple(np.argwhere(far)[0])
                return (
                    f"a {layer.name} convolution with {np.dtype(kind).name} weights gives {found[place]} where "
                    f"{expected[place]} is right, and {np.count_nonzero(far)} of {far.size} values are wrong"
                )
    return None


def _zero_point(weight: NDArray[np.generic]) -> int:
    return _WEIGHT_ZERO_POINT if weight.dtype == np.uint8 else 0


def _input() -> NDArray[np.uint8]:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (1, _CHANNELS, _SIZE, _SIZE), dtype=np.uint8)
    values[:, :, : _SIZE // 2] = 255
    return values


def _weight(layer: _Layer, kind: type[np.int8 | np.uint8]) -> NDArray[Any]:
    """Return ``(outputs, 64 / groups, k, k)``: every fourth channel the largest, smallest, alternating, random."""
    limits = np.iinfo(kind)
    low, high = max(int(limits.min), -127), int(limits.max)
    shape = (layer.outputs, _CHANNELS // layer.groups, layer.kernel, layer.kernel)
    weight = np.random.default_rng(1).integers(low, high + 1, shape).astype(kind)
    weight[0::4], weight[1::4] = high, low
    alternating = np.where(np.arange(weight[0].size) % 2, high, low).astype(kind)
    weight[2::4] = alternating.reshape(weight[0].shape)
    return weight


def _expected(layer: _Layer, values: NDArray[np.uint8], weight: NDArray[Any]) -> NDArray[np.int64]:
    """Compute a convolution in exact integers."""
    pad = layer.kernel // 2
    padded = np.pad(values[0].astype(np.int64), ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(1, 2))
    centred = weight.astype(np.int64) - _zero_point(weight)
    if layer.groups == 1:
        sums = np.einsum("chwij,ocij->ohw", windows, centred)
    else:
        sums = np.einsum("chwij,cij->chw", windows, centred[:, 0])
    rounded = np.rint(sums / 2**layer.shift).astype(np.int64) + _OUTPUT_ZERO_POINT
    clipped: NDArray[np.int64] = np.clip(rounded, 0, 255)
    return clipped[None]


def _model(weights: Mapping[_Layer, NDArray[Any]]) -> bytes:
    """Return a network whose layers all read the quantized input; its outputs are uint8, named like the layers."""
    constants = {"x.scale": np.float32(_INPUT_SCALE), "x.zero_point": np.uint8(0), "w.scale": np.float32(_WEIGHT_SCALE)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x.scale", "x.zero_point"], ["x.quantized"], name="x/Q"),
        helper.make_node("DequantizeLinear", ["x.quantized", "x.scale", "x.zero_point"], ["x.float"], name="x/DQ"),
    ]
    outputs = []
    for layer, weight in weights.items():
        name = layer.name
        constants[f"{name}.weight"] = weight
        constants[f"{name}.weight.zero_point"] = weight.dtype.type(_zero_point(weight))
        constants[f"{name}.scale"] = np.float32(_INPUT_SCALE * _WEIGHT_SCALE * 2**layer.shift)
        constants[f"{name}.zero_point"] = np.uint8(_OUTPUT_ZERO_POINT)
        quantized_weight = [f"{name}.weight", "w.scale", f"{name}.weight.zero_point"]
        pads, kernel = [layer.kernel // 2] * 4, [layer.kernel] * 2
        nodes += [
            helper.make_node("DequantizeLinear", quantized_weight, [f"{name}.w"], name=f"{name}/weight/DQ"),
            helper.make_node(
                "Conv",
                ["x.float", f"{name}.w"],
                [f"{name}.float"],
                name=f"{name}/Conv",
                group=layer.groups,
                pads=pads,
                kernel_shape=kernel,
            ),
            helper.make_node(
                "QuantizeLinear", [f"{name}.float", f"{name}.scale", f"{name}.zero_point"], [name], name=f"{name}/Q"
            ),
        ]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.UINT8, [1, layer.outputs, _SIZE, _SIZE]))
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, _CHANNELS, _SIZE, _SIZE])],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized
