"""Reads what the provider compiled: the graphs that it describes in JSON, and the nodes that it left to the CPU."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo_core.datatypes import ExecutedNode

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from zoo_core.datatypes import Precision

CPU = "CPUExecutionProvider"

_ADDED = re.compile(r"_token_\d+$")
"""What ONNX Runtime adds to the name of a node that it replaces."""

_FIXED_POINT = (0x3, 0x4)
"""High bytes of ``Qnn_DataType_t`` (QnnTypes.h of QAIRT): signed and unsigned fixed point; 0x2 is floating point."""


def executed_nodes(
    model: onnx.ModelProto, assigned: Mapping[str, Sequence[Any]], folder: Path
) -> tuple[ExecutedNode, ...]:
    """Return the nodes of the compiled graphs, then those that run on the CPU.

    Args:
        model: The model that was loaded.
        assigned: ONNX Runtime's nodes by provider.
        folder: With the JSON files of the compiled graphs.
    """
    names = {node.name for node in model.graph.node if node.name}
    nodes = []
    for path in sorted(folder.glob("*.json")):
        graph = json.loads(path.read_text(encoding="utf-8")).get("graph")
        if graph is not None:  # beside each graph is a log of its tensors
            nodes += [_on_htp(name, node, graph["tensors"], names) for name, node in graph["nodes"].items()]
    return (*nodes, *(_on_cpu(node, names) for node in assigned.get(CPU, ())))


def stem(name: str, names: Collection[str]) -> str:
    """Return the ONNX node after which ONNX Runtime called its own, or an empty text."""
    name = _ADDED.sub("", name)
    return name if name in names else ""


def _on_htp(name: str, node: Mapping[str, Any], tensors: Mapping[str, Any], names: Collection[str]) -> ExecutedNode:
    own = stem(name, names)
    used = [tensors[tensor]["data_type"] for tensor in (*node["input_names"], *node["output_names"])]
    precision: Precision = "integer" if all(kind >> 8 in _FIXED_POINT for kind in used) else "float"
    return ExecutedNode(
        name=name, operation=node["type"], computes=(own,) if own else (), precision=precision, device="HTP"
    )


def _on_cpu(node: Any, names: Collection[str]) -> ExecutedNode:
    own = stem(node.name, names)
    integer = node.op_type.startswith("QLinear") or "Integer" in node.op_type
    return ExecutedNode(
        name=node.name,
        operation=node.op_type,
        computes=(own,) if own else (),
        precision="integer" if integer else "float",
        device="CPU",
        elsewhere=True,
    )
