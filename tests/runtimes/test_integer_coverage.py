"""The share of integer products: counted by hand here, whatever a runtime reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from quantized_networks import NUM_MACS, quantized_model
from zoo_core.datatypes import ExecutedNode
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.integer_coverage import NOT_REPORTED, NodeCoverage, integer_coverage

LAYERS = ("/first/Conv", "/depthwise/Conv", "/last/Conv")


def executed(name: str, *computes: str, **rest: Any) -> ExecutedNode:
    return ExecutedNode(
        **{"name": name, "operation": "Conv", "computes": computes, "precision": "integer", "device": "X", **rest}
    )


def network(nodes: Sequence[NodeProto], shape: Sequence[int | str], **weights: Sequence[int]) -> bytes:
    constants = [numpy_helper.from_array(np.ones(dims, np.float32), name) for name, dims in weights.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "graph", [x], [y], constants), opset_imports=[helper.make_opsetid("", 17)]
    )
    serialized: bytes = model.SerializeToString()
    return serialized


def test_layers_in_integers_count_by_their_products() -> None:
    nodes = [executed(name, name) for name in LAYERS]
    nodes[1] = executed("fused", LAYERS[1], precision="float", reason="no kernel")

    found = integer_coverage(quantized_model(), nodes)

    assert found.num_macs == sum(NUM_MACS.values())
    assert found.share == pytest.approx(1 - NUM_MACS["depthwise"] / found.num_macs)
    assert found.nodes == (
        NodeCoverage(
            name=LAYERS[1],
            operation="Conv",
            device="X",
            precision="float",
            elsewhere=False,
            macs=NUM_MACS["depthwise"],
            reason="no kernel",
        ),
    )


def test_a_layer_that_no_node_computes_counts_as_float() -> None:
    found = integer_coverage(quantized_model(), [executed(name, name) for name in LAYERS[:2]])
    assert [(one.name, one.precision, one.reason) for one in found.nodes] == [(LAYERS[2], "float", NOT_REPORTED)]


def test_a_layer_of_which_a_part_is_in_float_counts_as_float() -> None:
    parts = [executed("first half", *LAYERS, precision="float"), executed("second half", *LAYERS)]
    assert integer_coverage(quantized_model(), parts).share == 0
    assert integer_coverage(quantized_model(), parts[::-1]).share == 0


def test_nodes_that_run_elsewhere_are_listed_even_without_products() -> None:
    nodes = [
        executed("all", *LAYERS[:2]),
        executed("last", LAYERS[2], elsewhere=True, device="CPU"),
        executed("copy", elsewhere=True, device="CPU", reason="no such operation"),
    ]

    found = integer_coverage(quantized_model(), nodes)

    assert found.share == 1
    assert [(one.name, one.precision, one.macs > 0, one.device) for one in found.nodes] == [
        (LAYERS[2], "integer", True, "CPU"),
        ("copy", "integer", False, "CPU"),
    ]


def test_a_layer_says_what_in_the_graph_keeps_it_from_integers() -> None:
    in_float = [executed(name, name, precision="float") for name in LAYERS]
    per_tensor = integer_coverage(quantized_model(per_channel=False, quantized_input=False), in_float)
    assert [one.reason for one in per_tensor.nodes] == [
        "its input is not quantized",
        "its weights have a zero point other than 0",
        "its weights have a zero point other than 0",
    ]
    assert {one.reason for one in integer_coverage(quantized_model(), in_float).nodes} == {""}


@pytest.mark.parametrize("batch", [1, 5, "batch"])
@pytest.mark.parametrize(
    ("operation", "shape", "weight", "settings", "expected"),
    [
        ("Conv", [4, 6, 6], [8, 2, 3, 3], {"group": 2, "strides": [2, 2]}, 8 * 2 * 2 * 2 * 9),
        ("ConvTranspose", [4, 6, 6], [4, 3, 2, 2], {"group": 2, "strides": [2, 2]}, 4 * 36 * 3 * 4),
        ("Gemm", [7], [5, 7], {"transB": 1}, 35),
        ("MatMul", [9, 7], [7, 5], {}, 9 * 7 * 5),
    ],
)
def test_products_are_those_of_one_image(
    batch: int | str, operation: str, shape: list[int], weight: list[int], settings: dict[str, Any], expected: int
) -> None:
    node = helper.make_node(operation, ["x", "w"], ["y"], name="layer", **settings)
    assert integer_coverage(network([node], [batch, *shape], w=weight), []).num_macs == expected


def test_a_network_without_products_has_no_share() -> None:
    found = integer_coverage(network([helper.make_node("Relu", ["x"], ["y"], name="relu")], [1, 3]), [])
    assert (found.share, found.num_macs, found.nodes) == (None, 0, ())


def test_products_that_cannot_be_counted_are_an_error() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="layer")
    with pytest.raises(RuntimeUnsupportedError, match="shapes of the Conv 'layer' do not follow from the graph"):
        integer_coverage(network([node], [1, 3, "height", "width"], w=[4, 3, 1, 1]), [])
