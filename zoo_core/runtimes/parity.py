"""Compares an exported network with the simulation layer by layer, each layer fed the simulation's own integers.

An end-to-end comparison cannot tell a bit-exact runtime from an inexact one, because one crossed rounding boundary
changes everything behind it. Here no layer sees another layer's difference, so a wrong layer is named, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from zoo_core.datatypes import LoadOptions
from zoo_core.errors import RuntimeUnsupportedError, closest_hint
from zoo_core.runtimes.agreement import OutputAgreement, OutputSums
from zoo_core.runtimes.comparing import MAX_DIFFERING, MAX_LSB, LayerParity, compare_layers
from zoo_core.runtimes.cutting import cut_at_quantizers, quantized_tensors
from zoo_core.runtimes.layout import declared_shape, find_layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from zoo_core.datatypes import Runtime
    from zoo_core.runtimes.layout import Layout, Shape

__all__ = [
    "MAX_DIFFERING",
    "MAX_LSB",
    "LayerParity",
    "OutputAgreement",
    "Parity",
    "Simulated",
    "compare_layers",
    "cut_at_quantizers",
    "measure_parity",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Simulated:
    """Results of the simulation.

    Attributes:
        integers: By quantized tensor, counted from the lowest of its grid.
        outputs: Of the network, float32, in its order.
    """

    integers: Mapping[str, NDArray[np.int64]]
    outputs: Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Comparison of an exported network, executed by a runtime, with the simulation.

    Attributes:
        layers: One entry per quantized tensor of the graph, in its order.
        not_in_graph: Quantized tensors that the simulation has and the graph lacks, so they were not compared: a Q/DQ
            pair that only repeated the one before it, or one that a converter removed.
        outputs: End to end, where each layer reads what the runtime computed before it.
        num_images: Images compared.
        differing_threshold: A layer is over the threshold if its ``differing_inside`` is ``>`` this, ...
        lsb_threshold: ... or if its largest difference is ``>`` this.
    """

    layers: Sequence[LayerParity]
    not_in_graph: Sequence[str]
    outputs: Sequence[OutputAgreement]
    num_images: int
    differing_threshold: float = MAX_DIFFERING
    lsb_threshold: int = MAX_LSB

    @property
    def over_threshold(self) -> Sequence[LayerParity]:
        """Return the layers whose difference rounding does not explain, in the order of the graph."""
        return [
            one
            for one in self.layers
            if one.differing_inside > self.differing_threshold or one.max_lsb > self.lsb_threshold
        ]

    @property
    def first_over_threshold(self) -> str | None:
        """Return the name of the first of them: where to start looking."""
        return next((one.name for one in self.over_threshold), None)


def measure_parity(
    runtime: Runtime,
    model: bytes,
    x: NDArray[np.float32],
    simulate: Callable[[NDArray[np.float32]], Simulated],
    *,
    options: LoadOptions | None = None,
    differing_threshold: float = MAX_DIFFERING,
    lsb_threshold: int = MAX_LSB,
) -> Parity:
    """Execute an exported network on a runtime and compare it with the simulation, layer by layer and end to end.

    Args:
        runtime: Loads the network twice: as it is, and cut at its quantizers.
        model: Serialized Q/DQ graph with one input. Its tensors may have their channels last.
        x: Images as the simulation's input, ``(N, C, H, W)``. They are computed in the batches that the graph declares,
            one by one if it takes any number.
        simulate: Computes the simulation of one such batch.
        options: For the runtime.
        differing_threshold: See ``Parity``.
        lsb_threshold: See ``Parity``.

    Raises:
        RuntimeUnsupportedError: The runtime cannot execute the graph, the simulation lacks a quantized tensor of it, a
            shape differs, or N is not a multiple of the graph's batch.
    """
    options = options or LoadOptions()
    names = _Names.of(model)
    cut, whole = runtime.load(cut_at_quantizers(model), options), runtime.load(model, options)
    layers: dict[str, LayerParity] = {}
    sums = [OutputSums(name) for name in names.outputs]
    missing: list[str] = []
    for images in _batches(x, names.shapes[names.input][0]):
        simulated = simulate(images)
        layout = names.layout(images, simulated)
        missing = [name for name in simulated.integers if name not in names.quantized]
        found = compare_layers(cut, images, simulated.integers, input_name=names.input, layout=layout)
        for one in found:
            layers[one.name] = layers[one.name].plus(one) if one.name in layers else one
        outputs = whole({names.input: layout.to_graph(names.input, images)})
        for total, expected in zip(sums, simulated.outputs, strict=True):
            total.add(expected, layout.from_graph(total.name, outputs[total.name]))
    return Parity(
        layers=tuple(layers[name] for name in names.quantized),
        not_in_graph=tuple(missing),
        outputs=tuple(one.agreement() for one in sums),
        num_images=len(x),
        differing_threshold=differing_threshold,
        lsb_threshold=lsb_threshold,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """Names and declared shapes of a graph's tensors that are compared.

    Attributes:
        input: Of the network.
        quantized: The quantized activations, in the order of the graph.
        outputs: Of the network.
        shapes: Of all of them, in the order of the graph.
    """

    input: str
    quantized: Sequence[str]
    outputs: Sequence[str]
    shapes: Mapping[str, Shape]

    @classmethod
    def of(cls, model: bytes) -> _Names:
        loaded = onnx.load_model_from_string(model)
        graph = onnx.shape_inference.infer_shapes(loaded).graph
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value.name for value in graph.input if value.name not in constants]
        if len(inputs) != 1:
            raise RuntimeUnsupportedError(
                f"The graph has {len(inputs)} inputs: {', '.join(inputs[:5])}.",
                fix="compare a graph whose only input is the image.",
            )
        declared = {value.name: declared_shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
        quantized, outputs = quantized_tensors(loaded), [value.name for value in graph.output]
        return cls(
            input=inputs[0],
            quantized=quantized,
            outputs=outputs,
            shapes={name: declared[name] for name in (*inputs, *quantized, *outputs)},
        )

    def layout(self, images: NDArray[np.float32], simulated: Simulated) -> Layout:
        """Return the axes of the graph's tensors.

        Raises:
            RuntimeUnsupportedError: The graph has tensors or outputs that the simulation lacks, or of another shape.
        """
        unknown = [name for name in self.quantized if name not in simulated.integers]
        if unknown or len(self.outputs) != len(simulated.outputs):
            hint = closest_hint(unknown[0], simulated.integers) if unknown else ""
            raise RuntimeUnsupportedError(
                f"The simulation lacks {len(unknown)} quantized tensors of the graph: {', '.join(unknown[:3])}{hint}."
                if unknown
                else f"The graph has {len(self.outputs)} outputs, the simulation {len(simulated.outputs)}.",
                fix="compare the graph with the simulation of the network from which it was exported; a converter must "
                "keep the names of quantized tensors.",
            )
        shapes = {name: simulated.integers[name].shape for name in self.quantized} | {self.input: images.shape}
        shapes |= {name: value.shape for name, value in zip(self.outputs, simulated.outputs, strict=True)}
        return find_layout(self.shapes, shapes, interface={self.input, *self.outputs})


def _batches(x: NDArray[np.float32], declared: int | None) -> Iterator[NDArray[np.float32]]:
    size = declared or 1
    if not len(x) or len(x) % size:
        raise RuntimeUnsupportedError(
            f"{len(x)} images cannot be computed in batches of {size}, which the graph declares.",
            fix=f"give a multiple of {size} images, or export the graph with another batch size.",
        )
    for start in range(0, len(x), size):
        yield x[start : start + size]
