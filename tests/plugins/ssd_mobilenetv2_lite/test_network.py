from __future__ import annotations

import copy
import pickle
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from ssd_mobilenetv2_lite.network import Add, Clip, Concat, MobileNetV2SSDLite, build_network
from zoo_core.errors import RegistryError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.mark.data
def test_the_state_dict_is_the_published_one_in_order(contract: list[dict[str, Any]]) -> None:
    state_dict = MobileNetV2SSDLite().state_dict()
    assert len(state_dict) == 478
    found = [(key, list(value.shape), str(value.dtype)) for key, value in state_dict.items()]
    assert found == [(row["key"], row["shape"], f"torch.{row['dtype']}") for row in contract]


@pytest.mark.data
def test_scores_equal_those_of_the_published_network(
    seeded_network: MobileNetV2SSDLite, golden: dict[str, NDArray[Any]], golden_input: torch.Tensor, image_id: str
) -> None:
    with torch.inference_mode():
        scores, locations = seeded_network(golden_input)
    assert scores.shape == (1, 3000, 21)
    assert locations.shape == (1, 3000, 4)
    np.testing.assert_allclose(scores[0].softmax(dim=1).numpy(), golden[f"{image_id}_scores"], rtol=0, atol=1e-4)


def test_an_image_gives_the_same_outputs_in_any_batch(untrained_network: MobileNetV2SSDLite) -> None:
    images = torch.rand(3, 3, 300, 300, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        together = untrained_network(images)
        alone = untrained_network(images[1:2])
    for batched, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batched[1:2], single, rtol=1e-4, atol=1e-5)


def test_a_copy_and_a_pickle_give_the_same_outputs(untrained_network: MobileNetV2SSDLite) -> None:
    x = torch.full((1, 3, 300, 300), 0.25)
    with torch.inference_mode():
        scores, locations = untrained_network(x)
        for twin in (copy.deepcopy(untrained_network), pickle.loads(pickle.dumps(untrained_network))):  # noqa: S301
            assert torch.equal(twin(x)[0], scores)
            assert torch.equal(twin(x)[1], locations)
            assert not twin.training


def test_a_symbolic_trace_gives_the_same_outputs_for_another_batch_size(untrained_network: MobileNetV2SSDLite) -> None:
    traced = torch.fx.symbolic_trace(untrained_network)
    x = torch.full((2, 3, 300, 300), -0.5)
    with torch.inference_mode():
        for found, expected in zip(traced(x), untrained_network(x), strict=True):
            assert torch.equal(found, expected)


def test_every_operation_that_computes_is_a_module_that_runs_once(untrained_network: MobileNetV2SSDLite) -> None:
    graph = torch.fx.symbolic_trace(untrained_network).graph
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    leaves = {name for name, module in untrained_network.named_modules() if not any(module.children())}
    # Add and Concat are plain modules that fx traces into: their one operation each is a function in the graph.
    own = {name for name in leaves if isinstance(untrained_network.get_submodule(name), (Add, Concat))}
    assert set(calls) == leaves - own
    assert set(calls.values()) == {1}
    functions = Counter(node.target.__name__ for node in graph.nodes if node.op == "call_function")
    assert functions["add"] == 10 == sum(isinstance(m, Add) for m in untrained_network.modules())
    assert functions["cat"] == 2 == sum(isinstance(m, Concat) for m in untrained_network.modules())


def test_none_of_the_53_relu6_works_in_place(untrained_network: MobileNetV2SSDLite) -> None:
    activations = [module for module in untrained_network.modules() if isinstance(module, nn.ReLU6)]
    assert len(activations) == 53  # first 1, blocks 1 + 16 * 2, last 1, extras 4 * 2, separable heads 10
    assert not any(module.inplace for module in activations)


def test_building_is_deterministic_and_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = build_network(seed=3), build_network(seed=3), build_network(seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [network.state_dict() for network in (first, again, other)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not torch.equal(weights[0]["base_net.0.0.weight"], weights[2]["base_net.0.0.weight"])
    assert all(torch.isfinite(value).all() for value in weights[0].values())
    assert not first.training


@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_class_heads_follow_the_class_count(num_classes: int) -> None:
    with torch.inference_mode():
        scores, locations = build_network(num_classes)(torch.zeros(1, 3, 300, 300))
    assert scores.shape == (1, 3000, num_classes)
    assert locations.shape == (1, 3000, 4)


@pytest.mark.parametrize("width_mult", [0.25, 0.5, 0.75])
def test_a_width_whose_published_channel_counts_agree_runs(width_mult: float) -> None:
    network = build_network(21, width_mult)
    with torch.inference_mode():
        scores, _ = network(torch.zeros(1, 3, 300, 300))
    assert scores.shape == (1, 3000, 21)
    assert network.state_dict()["classification_headers.0.0.weight"].shape[0] == 576 * width_mult


@pytest.mark.parametrize(
    ("width_mult", "words"),
    [
        (0.35, "block 14 expands to 198 channels, but .* first head reads 202"),
        (1.4, "block 14 expands to 804 channels, but .* first head reads 806"),
        (1.5, "features end in 1920 channels, but .* read 1280"),
        (0.01, "block 1 would have 0 channels"),
    ],
)
def test_a_width_whose_channel_counts_disagree_is_an_error_naming_both(width_mult: float, words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        MobileNetV2SSDLite(21, width_mult)


def test_a_clip_equals_relu6_until_its_ceilings_are_scaled() -> None:
    x = torch.tensor([-1.0, 2.0, 5.0, 7.0]).reshape(1, 2, 2, 1)
    clip = Clip(2)
    assert torch.equal(clip(x), nn.functional.relu6(x))
    clip.ceiling[0, 1] = 3.0
    assert clip(x).flatten().tolist() == [0.0, 2.0, 3.0, 3.0]


@pytest.mark.gpu
def test_the_network_runs_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = torch.full((1, 3, 300, 300), 0.25)
    network = build_network()
    with torch.inference_mode():
        expected = network(x)
        found = network.to("cuda")(x.to("cuda"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-2, atol=1e-2)
