"""Turns a traced graph into the one that a device wants: integer weights, Q/DQ pairs, no clip that a grid implies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from zoo_core.quantization.export.tracing import ACTIVATION, DOMAIN, WEIGHT
from zoo_core.runtimes.cutting import DEQUANTIZE, MOVED, QUANTIZE, UNCLIPPED
from zoo_core.runtimes.products import has_products

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from zoo_core.quantization.aimet.plain import Grid
    from zoo_core.quantization.integers import IntegerWeight

_CLIPS = ("Clip", "Min", "Max", "Relu")
_MOVING = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")

_TYPES = {
    (4, False): TensorProto.UINT4,
    (4, True): TensorProto.INT4,
    (8, False): TensorProto.UINT8,
    (8, True): TensorProto.INT8,
    (16, False): TensorProto.UINT16,
    (16, True): TensorProto.INT16,
}

OPSET, WIDE_OPSET = 17, 21
"""Opset for 8 bits, and the first whose Q/DQ nodes know 4 and 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSummary:
    """What the graph contains.

    Attributes:
        num_clips_removed: Clips that a quantizer's range implies.
        num_clips: Clips that stay, a cost on devices: of one value for all channels, or per channel.
        num_repeats_removed: Q/DQ pairs that only repeated the pair before them, or another pair of the same tensor.
    """

    num_clips_removed: int
    num_clips: int
    num_repeats_removed: int


def storage_bits(bits: int) -> int:
    """Return the bits of the ONNX type that holds integers of ``bits``."""
    return next((width for width in (4, 8, 16) if bits <= width), bits)


def activation_bits(grid: Grid) -> int:
    """Return the bits of the ONNX type that holds an activation: at least 8, since runtimes take no fewer."""
    return storage_bits(max(8, (grid.highest - grid.lowest).bit_length()))


class QdqGraph:
    """Rewrites a traced graph in place.

    Args:
        model: From ``tracing.traced``.
        weights: By parameter name.
        grids: By the name of the quantized tensor.
        int32_bias: Store biases as int32 at the scale of input times weight, as integer devices add them.
        integer_clips: Let ``Min`` and ``Max`` behind a layer read integers.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        weights: Mapping[str, IntegerWeight],
        grids: Mapping[str, Grid],
        *,
        int32_bias: bool,
        integer_clips: bool,
    ) -> None:
        self._model = model
        self._weights = weights
        self._grids = grids
        self._int32_bias = int32_bias
        self._integer_clips = integer_clips
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._num_clips_removed = self._num_repeats_removed = 0

    def rewrite(self) -> GraphSummary:
        """Replace our own nodes, remove what is redundant, and check the result.

        Raises:
            onnx.checker.ValidationError: The graph is not valid ONNX.
        """
        for node in self._model.graph.node:
            if node.domain != DOMAIN:
                self._nodes.append(node)
            elif node.op_type == WEIGHT:
                self._add_weight(node)
            elif node.op_type == ACTIVATION:
                self._add_pair(node)
        self._remove_repeats()
        while self._remove_clip():
            pass
        self._round_before_clips()
        self._round_behind_moves()
        if self._int32_bias:
            self._quantize_biases()
        self._finish()
        num_clips = sum(node.op_type in _CLIPS for node in self._nodes)
        return GraphSummary(
            num_clips_removed=self._num_clips_removed,
            num_clips=num_clips,
            num_repeats_removed=self._num_repeats_removed,
        )

    # ------------------------------------------------------------------ quantizers

    def _add_weight(self, node: onnx.NodeProto) -> None:
        name = _name(node)
        weight = self._weights[name]
        kind = _TYPES[storage_bits(weight.bits), weight.signed]
        self._add(f"{name}.quantized", weight.values.cpu().numpy(), kind)
        self._add(f"{name}.scale", weight.scale.cpu().numpy())
        self._add(f"{name}.zero_point", weight.zero_point.cpu().numpy(), kind)
        axis: dict[str, Any] = {} if weight.axis is None else {"axis": weight.axis}
        inputs = [f"{name}.{part}" for part in ("quantized", "scale", "zero_point")]
        self._nodes.append(helper.make_node(DEQUANTIZE, inputs, [node.output[0]], name=f"{name}/{DEQUANTIZE}", **axis))

    def _add_pair(self, node: onnx.NodeProto) -> None:
        name = _name(node)
        grid = self._grids[name]
        bits = activation_bits(grid)
        source, kind = node.input[0], _TYPES[bits, False]
        if grid.highest - grid.lowest < 2**bits - 1:  # the type holds more values than the grid
            bounds = [np.float32(end * grid.scale) for end in (grid.lowest, grid.highest)]
            names = [
                self._add(f"{name}.{end}", bound) for end, bound in zip(("lowest", "highest"), bounds, strict=True)
            ]
            self._nodes.append(helper.make_node("Clip", [source, *names], [f"{name}.clipped"], name=f"{name}/Clip"))
            source = f"{name}.clipped"
        scale = self._add(f"{name}.scale", np.float32(grid.scale))
        zero = self._add(f"{name}.zero_point", np.int64(-grid.lowest), kind)
        self._nodes.append(helper.make_node(QUANTIZE, [source, scale, zero], [name], name=f"{name}/{QUANTIZE}"))
        self._nodes.append(
            helper.make_node(DEQUANTIZE, [name, scale, zero], [node.output[0]], name=f"{name}/{DEQUANTIZE}")
        )

    def _quantize_biases(self) -> None:
        """Store each bias whose layer has quantized input and weight as int32."""
        producers = {output: node for node in self._nodes for output in node.output}
        nodes = []
        for node in self._nodes:
            pair = [producers.get(name) for name in node.input[:2]]
            has_bias = node.op_type in _WITH_BIAS and len(node.input) > 2 and node.input[2] in self._initializers
            if has_bias and all(one is not None and one.op_type == DEQUANTIZE for one in pair):
                name = node.input[2]
                scale = np.float32(self._value(pair[0].input[1]) * self._value(pair[1].input[1]))  # type: ignore[union-attr]
                bias = np.rint(self._value(name).astype(np.float64) / scale)
                limits = np.iinfo(np.int32)
                self._add(f"{name}.quantized", np.clip(bias, limits.min, limits.max), TensorProto.INT32)
                self._add(f"{name}.scale", scale)
                axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
                inputs = [f"{name}.quantized", f"{name}.scale"]
                node.input[2] = f"{name}.dequantized"
                nodes.append(helper.make_node(DEQUANTIZE, inputs, [node.input[2]], name=f"{name}/{DEQUANTIZE}", **axis))
            nodes.append(node)
        self._nodes = nodes

    # ------------------------------------------------------------------ redundant nodes

    def _remove_repeats(self) -> None:
        """Remove Q/DQ pairs that repeat the pair before them, or another pair of the same tensor."""
        rounded: dict[tuple[str, Grid], str] = {}  # dequantized tensor by what a pair rounds, or has rounded
        for node in list(self._nodes):
            grid = self._grids.get(node.output[0])
            if node.op_type != QUANTIZE or grid is None:
                continue
            (after,) = self._readers(node.output[0])
            before = rounded.setdefault((node.input[0], grid), after.output[0])
            if before == after.output[0] or self._is_output(after.output[0]):
                rounded[after.output[0], grid] = after.output[0]
                continue
            self._replace(after.output[0], before)
            self._nodes.remove(node)
            self._nodes.remove(after)
            self._num_repeats_removed += 1

    def _remove_clip(self) -> bool:
        """Remove one clip whose only reader is a quantizer that clips as much, perhaps behind other clips."""
        for node in self._nodes:
            if node.op_type not in _CLIPS:
                continue
            implied, bounds = self._implied_behind(node), self._bounds(node)
            if implied is not None and bounds is not None and bounds[0] <= implied[0] and bounds[1] >= implied[1]:
                (source,) = (name for name in node.input if name and name not in self._initializers)
                self._replace(node.output[0], source)
                self._nodes.remove(node)
                self._num_clips_removed += 1
                return True
        return False

    def _round_before_clips(self) -> None:
        """Put a Q/DQ pair of the same grid between a layer with products and the clips that stay behind it.

        A runtime computes a layer in integers only if its output is quantized at once. The integers stay the same:
        clips and rounding keep the order of values, so rounding before a clip as well as after it changes nothing.
        """
        producers = {output: node for node in self._nodes for output in node.output}
        for quantizer in [node for node in self._nodes if node.op_type == QUANTIZE and node.output[0] in self._grids]:
            clips, node = [], producers.get(quantizer.input[0])
            while node is not None and node.op_type in _CLIPS and self._is_plain_clip(node):
                (source,) = (name for name in node.input if name and name not in self._initializers)
                clips.append(node)
                node = producers.get(source)
            grid = self._grids[quantizer.output[0]]
            fills_type = grid.highest - grid.lowest == 2 ** activation_bits(grid) - 1
            if not clips or node is None or not has_products(node) or not fills_type:
                continue
            if len(self._readers(node.output[0])) != 1 or self._is_output(node.output[0]):
                continue
            if self._integer_clips and all(clip.op_type in ("Min", "Max") for clip in clips):
                self._clip_integers(quantizer, node, clips[::-1])
            else:
                self._insert_pair(quantizer, node, clips)

    def _round_behind_moves(self) -> None:
        """Put a Q/DQ pair of the same grid behind operations that only move values, before a layer with products.

        Runtimes compute a layer in integers where its inputs are dequantizers, which a Flatten between them hides. The
        pair rounds values to the grid on which they lie.
        """
        producers = {output: node for node in self._nodes for output in node.output}
        for layer in [node for node in self._nodes if has_products(node)]:
            for name in layer.input[:2]:
                moves, node = [], producers.get(name)
                while node is not None and node.op_type in _MOVING:
                    moves.append(node)
                    node = producers.get(node.input[0])
                if node is not None and node.op_type == DEQUANTIZE and node.input[0] in self._grids:
                    for move in moves:
                        self._add_pair_behind(move, node)

    def _add_pair_behind(self, move: onnx.NodeProto, rounded: onnx.NodeProto) -> None:
        source, name = move.output[0], f"{move.output[0]}{MOVED}"
        if self._is_output(source) or any(node.output[0] == name for node in self._nodes):
            return
        self._replace(source, f"{name}.dequantized")
        at = self._nodes.index(move) + 1
        self._nodes[at:at] = _pair(source, name, rounded.input[1:])

    def _is_plain_clip(self, node: onnx.NodeProto) -> bool:
        """Return True for a clip with constant bounds whose values nothing else reads."""
        alone = len(self._readers(node.output[0])) == 1 and not self._is_output(node.output[0])
        return alone and self._bounds(node) is not None

    def _insert_pair(self, quantizer: onnx.NodeProto, layer: onnx.NodeProto, clips: Sequence[onnx.NodeProto]) -> None:
        """Insert a pair before the last of ``clips``, and move their bounds onto the grid.

        Rounded values are clipped alike by a bound and by its rounded value, which float16 does not take for the next
        step; a bound near the middle of two steps it might.
        """
        source, name = layer.output[0], f"{quantizer.output[0]}{UNCLIPPED}"
        first = clips[-1]
        first.input[:] = [f"{name}.dequantized" if one == source else one for one in first.input]
        at = self._nodes.index(first)
        self._nodes[at:at] = _pair(source, name, quantizer.input[1:])
        grid = self._grids[quantizer.output[0]]
        for clip in clips:
            for index, bound in enumerate(clip.input):
                if bound in self._initializers:
                    steps = np.rint(self._value(bound) / np.float32(grid.scale))
                    on_grid = np.clip(steps, grid.lowest, grid.highest).astype(np.float32) * np.float32(grid.scale)
                    clip.input[index] = self._add(f"{clip.output[0]}.bound_{index}", on_grid)

    def _clip_integers(self, quantizer: onnx.NodeProto, layer: onnx.NodeProto, clips: Sequence[onnx.NodeProto]) -> None:
        """Put the quantizer before the clips, and their bounds on its grid; the integers stay the same, see above."""
        tensor, (scale, zero) = quantizer.output[0], quantizer.input[1:]
        grid, source = self._grids[tensor], f"{tensor}{UNCLIPPED}"
        rounding = helper.make_node(QUANTIZE, [layer.output[0], scale, zero], [source], name=f"{source}/{QUANTIZE}")
        self._nodes.insert(self._nodes.index(clips[0]), rounding)
        for clip in clips:
            (bound,) = (name for name in clip.input if name in self._initializers)
            steps = np.rint(grid(torch.from_numpy(self._value(bound).copy())).numpy() / np.float32(grid.scale))
            clipped = tensor if clip is clips[-1] else f"{clip.output[0]}.quantized"
            stored = self._add(f"{clip.output[0]}.bound", steps - grid.lowest, self._initializers[zero].data_type)
            clip.input[:], clip.output[:] = [source, stored], [clipped]
            source = clipped
        self._nodes.remove(quantizer)

    def _implied_behind(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """Return the range to which clips and the quantizer behind ``node`` clip; None if others read its values."""
        low, high = float("-inf"), float("inf")
        while not self._is_output(node.output[0]):
            readers = self._readers(node.output[0])
            if len(readers) != 1:
                return None
            (node,) = readers
            if node.op_type == QUANTIZE and node.output[0] in self._grids:
                grid = self._grids[node.output[0]]
                highest = grid.lowest + 2 ** activation_bits(grid) - 1
                return max(low, float(np.float32(grid.lowest * grid.scale))), min(
                    high, float(np.float32(highest * grid.scale))
                )
            bounds = self._bounds(node) if node.op_type in _CLIPS else None
            if bounds is None:
                return None
            if all(self._value(name).size == 1 for name in node.input if name in self._initializers):
                low, high = max(low, bounds[0]), min(high, bounds[1])
        return None

    def _bounds(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """Return the strictest bounds of a clip over its channels; None if they are not constants."""
        low, high = float("-inf"), float("inf")
        if node.op_type == "Relu":
            return 0.0, high
        ends = [name for name in node.input if name in self._initializers]
        if len([name for name in node.input if name]) != len(ends) + 1:
            return None
        if node.op_type == "Clip":
            first, second = (*node.input[1:], "", "")[:2]
            return float(self._value(first)) if first else low, float(self._value(second)) if second else high
        if len(ends) != 1:
            return None
        values = self._value(ends[0])
        return (low, float(values.min())) if node.op_type == "Min" else (float(values.max()), high)

    # ------------------------------------------------------------------ names

    def _readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self._nodes if name in node.input]

    def _replace(self, old: str, new: str) -> None:
        """Let everything that reads ``old`` read ``new``."""
        for node in self._nodes:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def _is_output(self, name: str) -> bool:
        return any(output.name == name for output in self._model.graph.output)

    def _value(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self._initializers[name])

    def _add(self, name: str, value: Any, kind: int | None = None) -> str:
        array = np.asarray(value)
        if kind in (TensorProto.UINT4, TensorProto.INT4):  # numpy has no such type
            tensor = helper.make_tensor(name, kind, array.shape, _packed(array), raw=True)
        else:
            as_type = array if kind is None else array.astype(helper.tensor_dtype_to_np_dtype(kind))
            tensor = numpy_helper.from_array(as_type, name)
        self._initializers[name] = tensor
        return name

    def _finish(self) -> None:
        graph = self._model.graph
        used = {name for node in self._nodes for name in node.input}
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(tensor for name, tensor in self._initializers.items() if name in used)
        kinds = {tensor.data_type for tensor in graph.initializer}
        wide = kinds & {TensorProto.UINT4, TensorProto.INT4, TensorProto.UINT16, TensorProto.INT16}
        opset = max(
            WIDE_OPSET if wide else OPSET, next(one.version for one in self._model.opset_import if not one.domain)
        )
        del self._model.opset_import[:]
        self._model.opset_import.append(helper.make_opsetid("", opset))
        self._model.ir_version = 10 if wide else 8
        onnx.checker.check_model(self._model, full_check=True)


def _pair(source: str, name: str, grid: Sequence[str]) -> Sequence[onnx.NodeProto]:
    """Return nodes that round ``source`` to the tensor ``name`` and dequantize it, with scale and zero point."""
    return (
        helper.make_node(QUANTIZE, [source, *grid], [name], name=f"{name}/{QUANTIZE}"),
        helper.make_node(DEQUANTIZE, [name, *grid], [f"{name}.dequantized"], name=f"{name}/{DEQUANTIZE}"),
    )


def _name(node: onnx.NodeProto) -> str:
    name: bytes = helper.get_attribute_value(node.attribute[0])
    return name.decode()


def _packed(values: NDArray[Any]) -> bytes:
    """Return 4-bit integers two to a byte, the first in the lower half."""
    halves = values.ravel().astype(np.int64) & 0xF
    halves = np.append(halves, np.zeros(halves.size % 2, np.int64))
    return (halves[0::2] | halves[1::2] << 4).astype(np.uint8).tobytes()
