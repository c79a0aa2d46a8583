"""Finds the order of axes in which a graph keeps its tensors, so that NHWC is not mistaken for a wrong result."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx

from zoo_core.errors import RuntimeUnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shape: TypeAlias = "tuple[int | None, ...]"
"""Declared shape; None for an axis of any length."""

_RANKS_WITH_CHANNELS = (3, 4, 5)
_Order: TypeAlias = "tuple[int, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Order of the axes of each tensor in a graph.

    Attributes:
        orders: By tensor: axis ``k`` in the graph is axis ``orders[name][k]`` in the simulation.
    """

    orders: Mapping[str, _Order]

    def to_graph(self, name: str, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return a tensor of the simulation with the graph's axes."""
        order = self.orders.get(name)
        return values if order is None else np.asarray(values.transpose(order), order="C")

    def from_graph(self, name: str, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return a tensor of the graph with the simulation's axes; one of another rank is returned unchanged."""
        order = self.orders.get(name)
        return values if order is None or len(order) != values.ndim else values.transpose(np.argsort(order))


def declared_shape(value: onnx.ValueInfoProto) -> Shape:
    """Return the shape that a graph declares for a tensor."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)


def find_layout(
    declared: Mapping[str, Shape], simulated: Mapping[str, Sequence[int]], *, interface: Collection[str] = ()
) -> Layout:
    """Compare the shapes of a graph with those of the simulation.

    Axes are in the simulation's order, or with the channels last. Where a shape fits both, such as ``(1, 8, 8, 8)``,
    the tensor is taken to be like the nearest one in the graph that has as many axes and fits only one. Inputs and
    outputs of the network count only if nothing else is certain, because converters often keep their axes and change
    all others.

    Args:
        declared: By tensor, in the order of the graph.
        simulated: By tensor; the same names.
        interface: Names of the network's inputs and outputs.

    Raises:
        RuntimeUnsupportedError: A shape fits neither order; all such tensors are named.
    """
    names = list(declared)
    fitting = {name: _fitting(declared[name], tuple(simulated[name])) for name in names}
    wrong = [name for name in names if not fitting[name]]
    if wrong:
        shown = ", ".join(f"{name} is {declared[name]}, simulated {tuple(simulated[name])}" for name in wrong[:3])
        raise RuntimeUnsupportedError(
            f"{len(wrong)} tensors of the graph have another shape than in the simulation: {shown}.",
            fix="compare the graph with the simulation of the network from which it was exported.",
        )
    certain = [index for index, name in enumerate(names) if len(fitting[name]) == 1]
    orders = {}
    for index, name in enumerate(names):
        like = [other for other in certain if len(declared[names[other]]) == len(declared[name])]
        nearest = min(like, key=lambda other: (names[other] in interface, abs(other - index), other), default=index)
        (order, *_) = fitting[name] if index in certain else fitting[names[nearest]]
        orders[name] = order
    return Layout(orders=orders)


def _fitting(declared: Shape, simulated: tuple[int, ...]) -> list[_Order]:
    """Return the orders of axes with which a simulated shape is the declared one, the simulation's own first."""
    if len(declared) != len(simulated):
        return []
    rank = len(simulated)
    orders = [tuple(range(rank))]
    if rank in _RANKS_WITH_CHANNELS:
        orders.append((0, *range(2, rank), 1))
    return [
        order
        for order in orders
        if all(length in (None, simulated[axis]) for length, axis in zip(declared, order, strict=True))
    ]
