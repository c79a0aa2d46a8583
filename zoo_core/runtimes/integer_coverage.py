"""Share of a network's products that a runtime computes in integers, and the layers that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.runtimes.products import float_reason, macs

if TYPE_CHECKING:
    import onnx

    from zoo_core.datatypes import ExecutedNode, Precision

NOT_REPORTED = "the runtime does not report it"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCoverage:
    """Node of a network, as a runtime executes it.

    Attributes:
        name: Of the ONNX node; of the runtime's own node where that computes none with products.
        operation: Kind of the node in the runtime's words; in ONNX's where the runtime does not report it.
        device: Where it runs; empty where the runtime does not report it.
        precision: Arithmetic of its products.
        elsewhere: It runs on another device than the runtime's own.
        macs: Multiply-accumulates of one image.
        reason: Why it runs in float or elsewhere: the runtime's words, else what the graph shows; may be empty.
    """

    name: str
    operation: str
    device: str
    precision: Precision
    elsewhere: bool
    macs: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerCoverage:
    """What a runtime computes in integers.

    Attributes:
        share: Share of the network's MACs, in ``[0, 1]``; None for a network without products.
        num_macs: MACs of one image.
        nodes: Those with products in float, in the network's order; then the others that run elsewhere.
    """

    share: float | None
    num_macs: int
    nodes: tuple[NodeCoverage, ...]


def integer_coverage(model: bytes, executed: Sequence[ExecutedNode]) -> IntegerCoverage:
    """Return the share of integer products of a loaded model.

    Args:
        model: Serialized ONNX model.
        executed: From ``RuntimeSession.coverage``. A node with products that none of them computes counts as float.

    Raises:
        RuntimeUnsupportedError: The shape of a tensor does not follow from the graph.
    """
    import onnx

    network = onnx.load_model_from_string(model)
    counts = macs(network)
    onnx_nodes = {node.name: node for node in network.graph.node if node.name in counts}
    owners: dict[str, ExecutedNode] = {}
    for one in executed:
        for name in one.computes:
            if name not in owners or one.precision == "float":  # what several compute is in integers if all are
                owners[name] = one
    nodes = []
    for name, count in counts.items():
        owner = owners.get(name)
        node = onnx_nodes[name]
        nodes.append(
            NodeCoverage(
                name=name,
                operation=owner.operation if owner else node.op_type,
                device=owner.device if owner else "",
                precision=owner.precision if owner else "float",
                elsewhere=owner.elsewhere if owner else False,
                macs=count,
                reason=_reason(owner, network, node),
            )
        )
    others = [
        NodeCoverage(
            name=one.name,
            operation=one.operation,
            device=one.device,
            precision=one.precision,
            elsewhere=True,
            macs=0,
            reason=one.reason,
        )
        for one in executed
        if one.elsewhere and not any(name in counts for name in one.computes)
    ]
    total = sum(counts.values())
    in_integers = sum(one.macs for one in nodes if one.precision == "integer")
    listed = [one for one in nodes if one.elsewhere or one.precision == "float"]
    return IntegerCoverage(share=in_integers / total if total else None, num_macs=total, nodes=(*listed, *others))


def _reason(owner: ExecutedNode | None, network: onnx.ModelProto, node: onnx.NodeProto) -> str:
    if owner is None:
        return NOT_REPORTED
    return owner.reason or (float_reason(network, node) if owner.precision == "float" else "")
