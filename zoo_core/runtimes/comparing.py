"""Compares the integers of each layer that a runtime computes with the simulation's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.cutting import GIVEN
from zoo_core.runtimes.layout import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_DIFFERING = 0.15
"""Largest share of the values inside the grid that rounding explains; measured on the drawn demos at 8 bits.

Without a fault, the largest share of a layer was 0.042 on ONNX Runtime (1 of 24 values; 0.017 in larger layers), 0.0001
on OpenVINO in float32, and 0.077 on the HTP emulator where it computes integers, but for one layer. With an
activation's zero point off by one it was at least 0.996, and rounding down instead of to nearest would change half of
the values. A weight's zero point off by one changed more than this too, except in two small layers on so coarse a grid
that less than a tenth of their values changed by 1: no threshold tells that from rounding. Other arithmetic is over the
threshold: bfloat16 on OpenVINO with 0.21, and the float16 in which the emulator computes a convolution before a clip of
the graph with 0.57.
"""

MAX_LSB = 3
"""Largest difference of two integers that rounding explains; measured likewise.

Without a fault it was 1 on ONNX Runtime and OpenVINO, and 3 on the emulator, where one layer had 4. Swapped scales of
two channels made it 13 or more, a transposed kernel 79 or more. A step of 16-bit activations is 256 times finer: ONNX
Runtime stays at 1, the emulator reaches 26.
"""

Session: TypeAlias = "Callable[[Mapping[str, NDArray[np.generic]]], Mapping[str, NDArray[np.generic]]]"
"""Computes the outputs of an ONNX model by name from its inputs by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParity:
    """Difference of one quantized tensor between a runtime and the simulation.

    Attributes:
        name: Of the tensor: the module whose output it is.
        num_values: Values compared.
        num_differing: Those with another integer.
        max_lsb: Largest difference of two integers.
        num_saturated: Values at the same end of the grid in both, where no difference can show: often more than half
            behind a ReLU.
    """

    name: str
    num_values: int
    num_differing: int
    max_lsb: int
    num_saturated: int = 0

    @property
    def differing(self) -> float:
        """Return the share of values that differ, in ``[0, 1]``."""
        return self.num_differing / self.num_values if self.num_values else 0.0

    @property
    def differing_inside(self) -> float:
        """Return the share of the values that are not saturated that differ, in ``[0, 1]``."""
        num_inside = self.num_values - self.num_saturated
        return self.num_differing / num_inside if num_inside else 0.0

    def plus(self, other: LayerParity) -> LayerParity:
        """Return the difference over the images of both; they are of one layer."""
        return LayerParity(
            name=self.name,
            num_values=self.num_values + other.num_values,
            num_differing=self.num_differing + other.num_differing,
            max_lsb=max(self.max_lsb, other.max_lsb),
            num_saturated=self.num_saturated + other.num_saturated,
        )


def compare_layers(
    session: Session,
    x: NDArray[np.float32],
    integers: Mapping[str, NDArray[np.int64]],
    *,
    input_name: str,
    layout: Layout | None = None,
) -> Sequence[LayerParity]:
    """Compute every layer from the simulation's integers and compare the results with them.

    Args:
        session: Of the graph of ``cut_at_quantizers``.
        x: The input from which the simulation computed ``integers``, ``(B, C, H, W)``.
        integers: By quantized tensor, counted from the lowest of its grid.
        input_name: Name of the network's input.
        layout: Of the graph; None if its tensors have the simulation's axes.

    Returns:
        One entry per quantized tensor of the graph, in its order.

    Raises:
        RuntimeUnsupportedError: The runtime returns a tensor of another shape.
    """
    layout = layout or Layout(orders={})
    given = {f"{name}{GIVEN}": layout.to_graph(name, values) for name, values in integers.items()}
    outputs = session({input_name: layout.to_graph(input_name, x), **given})
    return [_compared(name, layout.from_graph(name, output), integers[name]) for name, output in outputs.items()]


def _compared(name: str, output: NDArray[Any], expected: NDArray[np.int64]) -> LayerParity:
    if output.shape != expected.shape or output.dtype.kind not in "iu":
        raise RuntimeUnsupportedError(
            f"The runtime returns {name} as {output.dtype} with shape {output.shape}; the simulation has integers with "
            f"shape {expected.shape}.",
            fix="use a graph whose quantized tensors have the shapes that it declares.",
        )
    difference = np.abs(output.astype(np.int64) - expected)
    limits = np.iinfo(output.dtype)
    saturated = (difference == 0) & ((expected == limits.min) | (expected == limits.max))
    return LayerParity(
        name=name,
        num_values=difference.size,
        num_differing=int(np.count_nonzero(difference)),
        max_lsb=int(difference.max(initial=0)),
        num_saturated=int(np.count_nonzero(saturated)),
    )
