"""Copies a weights file into a network, or lists everything that does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.artifacts.checkpoints import cast_state_dict, load_metadata, load_state_dict
from zoo_core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from zoo_core.datatypes import Checkpoint

_SHOWN = 3


def load_classifier(network: nn.Module, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Copy weights into a classifier; return notes for the report.

    Args:
        network: Changed in place, including its structure if the weights were folded. Its last linear layer gives the
            classes.
        checkpoint: A published state dict, or ``quantized/network.safetensors`` of a run.

    Raises:
        CheckpointError: Keys, shapes or values are not this network's; all problems are listed together.
    """
    weights = load_state_dict(checkpoint.path)
    notes: tuple[str, ...] = ()
    if checkpoint.optimized and load_metadata(checkpoint.path).get("folded") == "true":
        _fold_structure(network, weights)
        notes = ("The weights were loaded with batch norms folded into the convolutions.",)
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not of this network" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    problems += [f"{name} is not finite" for name, value in weights.items() if not _is_finite(value)]
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"{checkpoint.path} does not fit {type(network).__name__} with {_num_outputs(network)} outputs: "
            f"{'; '.join(problems[:_SHOWN])}{more}.",
            fix="give weights of this architecture for as many classes as the data has (--labels names the classes).",
        )
    network.load_state_dict(cast_state_dict(weights, own, checkpoint.path))
    return notes


def _is_finite(value: torch.Tensor) -> bool:
    import torch

    return bool(torch.isfinite(value if value.is_complex() else value.float()).all())


def _fold_structure(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Convert the network to the form after folding batch norms: identities, and biases if ``weights`` has them."""
    import torch
    from torch import nn

    for name, module in list(network.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" not in weights:
            setattr(network.get_submodule(parent), child, nn.Identity())
        elif isinstance(module, nn.Conv2d) and module.bias is None and f"{name}.bias" in weights:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))


def _num_outputs(network: nn.Module) -> int:
    from torch import nn

    return next((m.out_features for m in reversed(list(network.modules())) if isinstance(m, nn.Linear)), 0)
