"""Builds a registry entry's torchvision network, without parts that a device would not run, and its preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torchvision
from PIL import Image
from torch import nn

from zoo_core.artifacts import load_classifier
from zoo_core.datatypes import ModelBundle
from zoo_core.errors import RegistryError, closest_hint
from zoo_core.metrics.classification import rank_classes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from zoo_core.datatypes import Checkpoint, Classification, ImageSize, ModelEntry

_NEEDED = ("builder", "weights")
_OPTIONS = (*_NEEDED, "builder_args", "transforms_args")
_UNTRAINED = "The network is untrained: what it says means nothing."


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Applies torchvision's own transforms to a PIL image, as for its published accuracies.

    Attributes:
        transforms: A preset such as ``ImageClassification``.
    """

    transforms: Any

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``(H, W, 3)`` uint8 RGB to ``(3, crop, crop)`` float32, bit-identical to ``transforms``."""
        array: NDArray[np.float32] = self.transforms(Image.fromarray(image)).numpy()
        return array


def decode(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Classification]:
    """Turn logits ``(B, C)`` into each image's most probable classes; ``sizes`` is not used."""
    return [rank_classes(logits) for logits, _ in zip(outputs[0].float().numpy(), sizes, strict=True)]


def load_bundle(entry: ModelEntry, checkpoint: Checkpoint | None, num_classes: int, device: str) -> ModelBundle:
    """Build the network that an entry describes.

    Args:
        entry: ``options.builder`` is a function of ``torchvision.models``, ``options.weights`` the enum member whose
            transforms are used, e.g. ``ResNet18_Weights.IMAGENET1K_V1``; ``builder_args`` and ``transforms_args`` are
            keywords for the two.
        checkpoint: Weights; None for an untrained network, the same each time.
        num_classes: Outputs of the network.
        device: A torch device string.

    Raises:
        RegistryError: An option is missing, unknown, or torchvision does not know what it names.
        CheckpointError: The weights are not this network's.
    """
    options = _options(entry)
    transforms = _call(entry, "transforms_args", _weights(entry).transforms, options.get("transforms_args", {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        arguments = {"num_classes": num_classes, **options.get("builder_args", {})}
        network = for_device(_call(entry, "builder_args", _builder(entry), arguments)).eval()
    notes: tuple[str, ...] = (_UNTRAINED,)
    if checkpoint is not None:
        notes = load_classifier(network, checkpoint)
    size = int(transforms.crop_size[0])
    example = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return ModelBundle(
        network=network.to(device),
        example_input=example.to(device),
        preprocess=Preprocess(transforms),
        decode=decode,
        notes=notes,
    )


def for_device(network: nn.Module) -> nn.Module:
    """Remove modules that do nothing in eval mode and make activations out-of-place; parameter names are kept.

    Dropout and stochastic depth would each get a quantizer of their own in a simulation; an activation in place makes
    its input and its output one tensor, so that a convolution with its activation is not recognized as one operation.

    Args:
        network: Modified and returned; inserted modules are in training mode, like every new module.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, nn.Identity())
        elif getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010  # no type declares it
    return network


# --------------------------------------------------------------------------- the entry's options


def _options(entry: ModelEntry) -> Mapping[str, Any]:
    problems = [f"does not know {name!r}" for name in sorted(set(entry.options) - set(_OPTIONS))]
    problems += [f"needs {name!r}, a text" for name in _NEEDED if not isinstance(entry.options.get(name), str)]
    problems += [
        f"needs a mapping for {name!r}" for name in _OPTIONS[2:] if not isinstance(entry.options.get(name, {}), dict)
    ]
    if problems:
        raise RegistryError(
            f"{entry.source}: {entry.model_id}.options: {entry.plugin} {', '.join(problems)}.",
            fix=f"use only {', '.join(_OPTIONS)}.",
        )
    return entry.options


def _builder(entry: ModelEntry) -> Any:
    name = entry.options["builder"]
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        hint = closest_hint(name, known)
        raise RegistryError(
            f"{entry.source}: {entry.model_id}.options.builder: torchvision {torchvision.__version__} has no "
            f"classifier {name!r}{hint}.",
            fix="name one of torchvision.models.list_models(module=torchvision.models).",
        )
    return torchvision.models.get_model_builder(name)


def _weights(entry: ModelEntry) -> Any:
    name = entry.options["weights"]
    try:
        return torchvision.models.get_weight(name)
    except (KeyError, ValueError) as error:
        raise RegistryError(
            f"{entry.source}: {entry.model_id}.options.weights: torchvision {torchvision.__version__} has no {name!r}.",
            fix="write <enum>.<member>, e.g. ResNet18_Weights.IMAGENET1K_V1.",
        ) from error


def _call(entry: ModelEntry, option: str, function: Any, arguments: Mapping[str, Any]) -> Any:
    try:
        return function(**arguments)
    except (TypeError, ValueError) as error:
        raise RegistryError(
            f"{entry.source}: {entry.model_id}.options.{option}: torchvision does not accept {dict(arguments)}: "
            f"{error}",
            fix="give the function's own keywords.",
        ) from error
