"""Loads weights of a single-shot detector: torchvision's own, fine-tuned ones, and those of a finished run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo_core import artifacts
from zoo_core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchvision.models.detection.ssd import SSD

    from zoo_core.datatypes import Checkpoint

_FIRST_CLASS_HEAD = "head.classification_head.module_list.0"


def load_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Read a state dict.

    Raises:
        CheckpointError: The file cannot be read, has values that are not finite, or belongs to a network with
            replaced ReLU6, which a state dict cannot express.
    """
    state = artifacts.load_state_dict(checkpoint.path)
    wrong = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.path} has NaN or infinite values in {len(wrong)} tensors, first {wrong[0]}.",
            fix="use weights saved after sound training.",
        )
    policy = artifacts.load_metadata(checkpoint.path).get("relu6_policy", "keep")
    if policy != "keep":
        raise CheckpointError(
            f"{checkpoint.path} is of a network whose ReLU6 were changed (policy {policy}).",
            fix="quantize with the relu6 policy keep, and give that run's network.",
        )
    return state


def num_columns_in(state: Mapping[str, torch.Tensor], detector: SSD) -> int:
    """Count the class-score columns in a state dict's head, including background.

    Raises:
        CheckpointError: It has no such head.
    """
    head = detector.get_submodule(_FIRST_CLASS_HEAD)
    last = [name for name, module in head.named_modules() if isinstance(module, nn.Conv2d)][-1]
    name = ".".join(part for part in (_FIRST_CLASS_HEAD, last, "weight") if part)
    num_anchors = detector.anchor_generator.num_anchors_per_location()[0]
    weight = state.get(name)
    if weight is None or weight.dim() != 4 or weight.shape[0] % num_anchors:
        found = "is missing" if weight is None else f"has the shape {tuple(weight.shape)}"
        raise CheckpointError(
            f"The checkpoint is not of this detector: {name} {found}.",
            fix="use a state dict of this very detector, as torchvision's checkpoints are.",
        )
    return int(weight.shape[0]) // int(num_anchors)


def fold_like(detector: SSD, state: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Remove the batch norms that ``state`` does not have, in place, and add the convolution biases that it has.

    Returns:
        A note for the report.
    """
    count = 0
    for name, module in list(detector.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" not in state:
            parent, _, child = name.rpartition(".")
            setattr(detector.get_submodule(parent), child, nn.Identity())
            count += 1
        elif isinstance(module, nn.Conv2d) and module.bias is None and f"{name}.bias" in state:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    return (f"{count} batch norms are folded in the optimized checkpoint.",)
