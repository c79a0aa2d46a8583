"""Loads weights files; the file's content decides the network's form, and every mismatch is an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

import torch
from torch import nn

from ssd_mobilenetv2_lite.network import NUM_ANCHORS_PER_CELL, Clip, MobileNetV2SSDLite
from zoo_core.artifacts import cast_state_dict, load_metadata, load_state_dict
from zoo_core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Relu6Policy: TypeAlias = Literal["keep", "replace", "per_channel_clip"]

PUBLISHED_POLICY: Relu6Policy = "replace"
"""Policy of optimized weights without metadata: AIMET before 2.4, which made the published ones, used ReLU."""

_SHOWN = 3
_CLASS_HEAD = "classification_headers.5.weight"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedNetwork:
    """A network with its weights.

    Attributes:
        network: In eval mode, on the CPU.
        notes: Differences from the published structure, for the report; empty if there are none.
    """

    network: MobileNetV2SSDLite
    notes: tuple[str, ...] = ()


def load_network(
    path: Path, *, optimized: bool, num_classes_with_background: int, width_mult: float = 1.0
) -> LoadedNetwork:
    """Build the network that a weights file was made for, and load it.

    Args:
        path: The file.
        optimized: The file is declared as already optimized: batch norms are folded into convolutions, and its metadata
            states the treatment of ReLU6 (``relu6_policy``); without metadata ReLU6 was replaced by ReLU.
        num_classes_with_background: Number of classes in the label file, plus background.
        width_mult: See ``MobileNetV2SSDLite``.

    Raises:
        CheckpointError: The file cannot be read safely, is of the other kind, or does not fit the network.
        RegistryError: The published structure does not exist at this width.
    """
    state_dict = load_state_dict(path)
    metadata = load_metadata(path) if optimized else {}
    folded = optimized and metadata.get("folded") != "false"
    _check_kind(state_dict, optimized=optimized, folded=folded, where=str(path))
    network = MobileNetV2SSDLite(num_classes_with_background, width_mult).eval()
    notes = []
    if folded:
        fold_structure(network)
        notes.append("The weights were loaded with batch norms folded into the convolutions.")
    policy = _relu6_policy(metadata, state_dict, where=str(path)) if optimized else "keep"
    if policy == "replace":
        replace_relu6(network)
        notes.append("ReLU6 is replaced by ReLU, as these optimized weights need: the float network is another one.")
    elif policy == "per_channel_clip":
        clip_channels(network, state_dict)
        notes.append(
            "ReLU6 is a clip with one ceiling a channel, which is not the scalar clip that every device fuses."
        )
    load_weights(network, state_dict, where=str(path))
    return LoadedNetwork(network=network, notes=tuple(notes))


def load_weights(network: MobileNetV2SSDLite, state_dict: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy weights into ``network``; keys and shapes must be its own, and all values finite.

    Half and double precision become float32.

    Args:
        network: Changed in place, unless an error is raised.
        state_dict: Not modified.
        where: The file, for error messages.

    Raises:
        CheckpointError: The weights do not fit; all problems are listed together.
    """
    _check_class_count(network, state_dict, where)
    expected = network.state_dict()
    problems = _key_problems(expected, state_dict)
    problems += _value_problems(expected, {key: state_dict[key] for key in expected if key in state_dict})
    if problems:
        raise CheckpointError(
            f"{where} does not fit MobileNetV2-SSD-lite: {'; '.join(problems)}.", fix=_fix(expected, state_dict)
        )
    network.load_state_dict(cast_state_dict(state_dict, expected, where))


def fold_structure(network: nn.Module) -> None:
    """Give ``network`` the form it has after folding: a bias in every convolution, an identity for its batch norm.

    In place; weights are not changed, and new biases are 0.
    """
    for parent in network.modules():
        convolution: nn.Conv2d | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and convolution is not None:
                if convolution.bias is None:
                    convolution.bias = nn.Parameter(torch.zeros(convolution.out_channels))
                setattr(parent, name, nn.Identity())
            convolution = child if isinstance(child, nn.Conv2d) else None


def replace_relu6(network: nn.Module) -> None:
    """Replace every ReLU6 with ReLU, in place: activations are no longer clipped at 6."""
    for parent in network.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(parent, name, nn.ReLU())


def clip_channels(network: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Replace every ReLU6 that has ceilings in ``state_dict`` with a ``Clip``, in place.

    ``load_weights`` fills in the ceilings and reports ceilings that belong to no activation.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.ReLU6)]
    for name in names:
        ceiling = state_dict.get(f"{name}.ceiling")
        if ceiling is not None:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, Clip(ceiling.numel()))


def _check_kind(state_dict: Mapping[str, torch.Tensor], *, optimized: bool, folded: bool, where: str) -> None:
    has_batch_norms = any(key.endswith("running_mean") for key in state_dict)
    if folded and has_batch_norms:
        raise CheckpointError(
            f"{where} was given as an optimized checkpoint, but holds batch norms: it is an original one.",
            fix="give original weights with --checkpoint.",
        )
    if not optimized and not has_batch_norms and _CLASS_HEAD in state_dict:
        raise CheckpointError(
            f"{where} was given as an original checkpoint, but holds no batch norms: they are folded, so it is an "
            "optimized one.",
            fix="give optimized weights with --optimized-checkpoint.",
        )


def _relu6_policy(metadata: Mapping[str, str], state_dict: Mapping[str, torch.Tensor], where: str) -> Relu6Policy:
    has_ceilings = any(key.endswith(".ceiling") for key in state_dict)
    stated = metadata.get("relu6_policy", "per_channel_clip" if has_ceilings else PUBLISHED_POLICY)
    if stated not in get_args(Relu6Policy):
        raise CheckpointError(
            f"{where}: its metadata says relu6_policy = {stated!r}; known are {', '.join(get_args(Relu6Policy))}.",
            fix="write the file with `zoo-eval quantize`, or correct its metadata.",
        )
    return cast("Relu6Policy", stated)


def _check_class_count(network: MobileNetV2SSDLite, state_dict: Mapping[str, torch.Tensor], where: str) -> None:
    head = state_dict.get(_CLASS_HEAD)
    if head is None or head.dim() == 0 or head.shape[0] % NUM_ANCHORS_PER_CELL:
        return
    found, expected = head.shape[0] // NUM_ANCHORS_PER_CELL, network.num_classes_with_background
    if found != expected:
        raise CheckpointError(
            f"{where}: checkpoint has {found} classes incl. background, label file has {expected}.",
            fix="give --labels the label file that these weights were trained with, or weights for these classes.",
        )


def _key_problems(expected: Mapping[str, torch.Tensor], state_dict: Mapping[str, torch.Tensor]) -> list[str]:
    groups = {
        "missing": [key for key in expected if key not in state_dict],
        "unexpected": [key for key in state_dict if key not in expected],
    }
    return [f"{len(keys)} keys {kind} ({_first(keys)})" for kind, keys in groups.items() if keys]


def _value_problems(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    shapes, types, values = [], [], []
    for key, value in given.items():
        if value.shape != expected[key].shape:
            shapes.append(f"{key} is {tuple(value.shape)}, not {tuple(expected[key].shape)}")
        elif value.is_floating_point() != expected[key].is_floating_point():
            types.append(f"{key} is {value.dtype}, not {expected[key].dtype}")
        elif value.is_floating_point() and not torch.isfinite(value.float()).all():
            values.append(key)
    groups = {"of another shape": shapes, "of another type": types, "with NaN or infinite values": values}
    return [f"{len(found)} {what} ({_first(found)})" for what, found in groups.items() if found]


def _fix(expected: Mapping[str, torch.Tensor], state_dict: Mapping[str, torch.Tensor]) -> str:
    if state_dict and all(key.startswith("module.") for key in state_dict):
        return "save the state dict of the module inside DataParallel: model.module.state_dict()."
    if all(key in expected for key in state_dict) and len(state_dict) == len(expected):
        return (
            "use weights of this structure and width (options.width_mult in the registry), saved after sound training."
        )
    return "use a state dict of this network: its keys are those of pytorch-ssd's mb2-ssd-lite."


def _first(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
