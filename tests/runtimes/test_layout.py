"""Order of axes: from declared shapes, and from neighbours where a shape does not tell."""

from __future__ import annotations

import numpy as np
import pytest

from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.layout import Layout, Shape, find_layout

FIRST, LAST = (0, 1, 2, 3), (0, 2, 3, 1)


@pytest.mark.parametrize(
    ("declared", "simulated", "order"),
    [
        ((1, 5, 7), (1, 5, 7), (0, 1, 2)),
        ((1, 7, 5), (1, 5, 7), (0, 2, 1)),
        ((1, 5, 7, 9), (1, 5, 7, 9), FIRST),
        ((1, 7, 9, 5), (1, 5, 7, 9), LAST),
        ((None, 7, 9, 5), (1, 5, 7, 9), LAST),
        ((1, 3, 7, 9, 5), (1, 5, 3, 7, 9), (0, 2, 3, 4, 1)),
        ((1, 1, 1, 5), (1, 5, 1, 1), LAST),
        ((1, 5), (1, 5), (0, 1)),
        ((), (), ()),
    ],
)
def test_a_shape_tells_the_order(declared: Shape, simulated: tuple[int, ...], order: tuple[int, ...]) -> None:
    layout = find_layout({"t": declared}, {"t": simulated})
    assert layout.orders == {"t": order}

    values = np.arange(np.prod(simulated, dtype=int)).reshape(simulated)
    there = layout.to_graph("t", values)
    assert all(length in (None, found) for length, found in zip(declared, there.shape, strict=True))
    assert np.array_equal(layout.from_graph("t", there), values)


def test_channels_go_to_the_end_and_rows_stay_before_columns() -> None:
    values = np.arange(24).reshape(1, 2, 3, 4)
    moved = Layout(orders={"t": LAST}).to_graph("t", values)
    assert moved.shape == (1, 3, 4, 2)
    assert moved[0, 1, 2].tolist() == [values[0, 0, 1, 2], values[0, 1, 1, 2]]


def orders(*tensors: tuple[str, Shape, tuple[int, ...]], interface: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
    declared = {name: shape for name, shape, _ in tensors}
    return dict(find_layout(declared, {name: shape for name, _, shape in tensors}, interface=interface).orders)


CUBE = ((1, 8, 8, 8), (1, 8, 8, 8))
TURNED, KEPT = ((1, 8, 8, 6), (1, 6, 8, 8)), ((1, 6, 8, 8), (1, 6, 8, 8))


def test_an_ambiguous_tensor_is_like_the_nearest_one_that_is_not() -> None:
    found = orders(("a", *CUBE), ("b", *TURNED), ("c", *CUBE), ("d", *CUBE), ("e", *CUBE), ("f", *KEPT), ("g", *CUBE))
    assert found == {"a": LAST, "b": LAST, "c": LAST, "d": LAST, "e": FIRST, "f": FIRST, "g": FIRST}


def test_an_ambiguous_graph_has_the_simulations_order() -> None:
    assert orders(("a", *CUBE), ("b", *CUBE)) == {"a": FIRST, "b": FIRST}


def test_tensors_of_another_rank_do_not_count() -> None:
    tokens = ((1, 7, 7), (1, 7, 7))
    assert orders(("a", *TURNED), ("b", *tokens), ("c", (1, 5, 9), (1, 9, 5)))["b"] == (0, 2, 1)
    assert orders(("a", *TURNED), ("b", *tokens))["b"] == (0, 1, 2)


def test_inputs_count_only_where_nothing_else_is_certain() -> None:
    image = ((1, 3, 8, 8), (1, 3, 8, 8))
    found = orders(("input", *image), ("a", *CUBE), ("b", *CUBE), ("c", *TURNED), interface=("input",))
    assert found == {"input": FIRST, "a": LAST, "b": LAST, "c": LAST}
    turned = ((1, 8, 8, 3), (1, 3, 8, 8))
    assert orders(("input", *turned), ("a", *CUBE), interface=("input",)) == {"input": LAST, "a": LAST}


def test_every_shape_that_fits_no_order_is_counted() -> None:
    message = r"2 tensors .*: a is \(1, 9, 8, 6\), simulated \(1, 6, 8, 8\), c is \(6,\), simulated \(1, 6\)"
    with pytest.raises(RuntimeUnsupportedError, match=message):
        orders(("a", (1, 9, 8, 6), (1, 6, 8, 8)), ("b", *TURNED), ("c", (6,), (1, 6)))
