"""The digest of a network: the same for the same network, another for each thing that changes its outputs."""

from __future__ import annotations

import copy

import torch
from torch import nn

from zoo_core.quantization.digest import network_sha256


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()).eval()


def test_the_same_network_has_the_same_digest() -> None:
    own = network()
    assert network_sha256(own) == network_sha256(copy.deepcopy(own)) == network_sha256(network())
    own(torch.ones(1, 3, 2, 2))
    assert network_sha256(own) == network_sha256(network())


def test_each_bit_of_weights_and_buffers_counts() -> None:
    for name in ("0.weight", "0.bias", "1.running_mean", "1.num_batches_tracked"):
        own = network()
        value = own.state_dict()[name].reshape(-1)
        value[0] = torch.nextafter(value[0], torch.tensor(9.0)) if value.is_floating_point() else value[0] + 1
        assert network_sha256(own) != network_sha256(network()), name


def test_another_activation_is_another_network() -> None:
    own = network()
    own[2] = nn.ReLU()
    assert network_sha256(own) != network_sha256(network())


def test_encodings_count() -> None:
    digests = {
        network_sha256(network(), encodings) for encodings in (None, {}, {"a": {"min": 0.0}}, {"a": {"min": 0.1}})
    }
    assert len(digests) == 4


def test_the_code_of_a_traced_network_counts() -> None:
    traced = torch.fx.symbolic_trace(network())
    other = copy.deepcopy(traced)
    (call,) = [node for node in other.graph.nodes if node.target == "2"]
    call.replace_all_uses_with(call.args[0])
    other.graph.erase_node(call)
    other.recompile()

    assert other.state_dict().keys() == traced.state_dict().keys()
    assert network_sha256(other) != network_sha256(traced)
