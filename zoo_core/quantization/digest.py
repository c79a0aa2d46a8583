"""Digest of a network, by which a run recognizes the network that earlier predictions came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def network_sha256(network: nn.Module, encodings: Mapping[str, Any] | None = None) -> str:
    """Return a SHA-256 over the modules, the traced code, and the weights of a network, and over its encodings.

    Two networks with the same digest give the same outputs if they were built by the same program: arguments of
    modules that are not tensors, such as a stride, are not covered.

    Args:
        network: In float, or simulated.
        encodings: ``Simulation.encodings``; None for a float network.
    """
    import torch

    digest = hashlib.sha256()
    for name, module in network.named_modules():
        digest.update(f"{name}:{type(module).__module__}.{type(module).__qualname__}\n".encode())
        if isinstance(module, torch.fx.GraphModule):
            digest.update(module.code.encode())
    for name, value in sorted(network.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue  # a module's extra state, which may be anything
        digest.update(f"{name}:{value.dtype}{tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if encodings is not None:
        digest.update(json.dumps(encodings, sort_keys=True, default=str).encode())
    return digest.hexdigest()
