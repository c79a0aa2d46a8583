"""Reads OpenVINO's compiled graph: which of a model's nodes each of its nodes computes, and in what precision.

Keys of a node: ``openvino/runtime/exec_model_info.hpp`` of OpenVINO 2026.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo_core.datatypes import ExecutedNode

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from zoo_core.datatypes import Precision

_NOT_EXECUTED = ("Const", "Input", "Output")
_WITH_PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_INTEGERS = ("u8", "i8")


def executed_nodes(model: onnx.ModelProto, compiled: Any) -> list[ExecutedNode]:
    """Return the nodes of a compiled graph in the order of their execution.

    Args:
        model: The model that was compiled.
        compiled: From ``CompiledModel.get_runtime_model``.
    """
    kinds = {node.name: node.op_type for node in model.graph.node if node.name}
    nodes = []
    for operation in compiled.get_ordered_ops():
        info = {key: str(value.astype(str)) for key, value in operation.get_rt_info().items()}
        kind = info.get("layerType", "")
        if kind in _NOT_EXECUTED:
            continue
        computes = [
            name
            for name in dict.fromkeys(_onnx_names(info.get("originalLayersNames", ""), kinds))
            if (kinds[name] in _PRODUCTS) <= (kind in _WITH_PRODUCTS)
        ]
        nodes.append(
            ExecutedNode(
                name=operation.get_friendly_name(),
                operation=kind,
                computes=tuple(computes),
                precision=_precision(info),
                device="CPU",
            )
        )
    return nodes


def _onnx_names(listed: str, kinds: dict[str, str]) -> Iterator[str]:
    """Yield the ONNX nodes in a list such as ``/conv/Conv/WithoutBiases,Multiply_89,/relu/QuantizeLinear``."""
    for name in listed.split(","):
        while name and name not in kinds:  # OpenVINO adds parts such as /WithoutBiases/DequantizationMultiply
            name = name.rpartition("/")[0]
        if name:
            yield name


def _precision(info: dict[str, str]) -> Precision:
    """Return ``integer`` where the inputs and the kernel, such as ``brgconv_avx512_I8``, are both 8-bit.

    A fully connected layer reports ``u8`` with a float kernel when only its stored weights are 8-bit.
    """
    kernel = info.get("primitiveType", "").lower().rpartition("_")[2]
    return "integer" if info.get("runtimePrecision") in _INTEGERS and kernel in _INTEGERS else "float"
