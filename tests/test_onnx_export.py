"""Names, shapes and errors of exported graphs."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from torch import nn

from zoo_core.errors import RunError
from zoo_core.onnx_export import export_onnx

X = torch.zeros(2, 3, 4, 4)


class Heads(nn.Module):
    """Returns its input times 1, 2, ... as ``kind`` of so many tensors; a tensor if there is no kind."""

    def __init__(self, num_outputs: int, kind: Any = None) -> None:
        super().__init__()
        self.num_outputs, self.kind = num_outputs, kind

    def forward(self, x: torch.Tensor) -> Any:
        outputs = [x * factor for factor in range(1, self.num_outputs + 1)]
        return self.kind(outputs) if self.kind is not None else outputs[0]


def exported(network: nn.Module, *, dynamic_batch: bool = False, opset: int = 17) -> onnx.ModelProto:
    data = export_onnx(network.eval(), X, opset=opset, dynamic_batch=dynamic_batch, fix="use another.")
    return onnx.load_model_from_string(data)


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (Heads(1), ["output"]),
        (Heads(1, tuple), ["output"]),
        (Heads(3, tuple), ["output_0", "output_1", "output_2"]),
        (Heads(2, list), ["output_0", "output_1"]),
    ],
    ids=["tensor", "tuple of one", "tuple", "list"],
)
@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_inputs_and_outputs_have_the_same_names_in_every_graph(
    network: nn.Module, names: list[str], dynamic_batch: bool
) -> None:
    graph = exported(network, dynamic_batch=dynamic_batch).graph

    assert [one.name for one in graph.input] == ["input"]
    assert [one.name for one in graph.output] == names
    for one in (*graph.input, *graph.output):
        first = one.type.tensor_type.shape.dim[0]
        assert (first.dim_param or first.dim_value) == ("batch" if dynamic_batch else 2), one.name


@pytest.mark.parametrize("opset", [17, 20])
def test_the_opset_is_the_one_asked_for(opset: int) -> None:
    assert [one.version for one in exported(Heads(1), opset=opset).opset_import] == [opset]


class Raises(nn.Module):
    """Cannot run."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message

    def forward(self, _x: torch.Tensor) -> torch.Tensor:
        raise ValueError(self.message)


@pytest.mark.parametrize(
    ("message", "words"),
    [("\nno such operator\nat line 3", "no such operator"), ("", "ValueError")],
    ids=["two lines", "empty"],
)
def test_an_error_has_torchs_first_line_and_the_callers_fix(message: str, words: str) -> None:
    with pytest.raises(RunError) as caught:
        exported(Raises(message))
    assert caught.value.fact == f"torch cannot export Raises to ONNX: {words}"
    assert caught.value.fix == "use another."
