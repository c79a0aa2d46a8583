from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssd_mobilenetv2_lite.checkpoint import fold_structure, load_network, load_weights, replace_relu6
from ssd_mobilenetv2_lite.network import Clip, MobileNetV2SSDLite, build_network
from zoo_core.datatypes import QuantSettings
from zoo_core.errors import CheckpointError
from zoo_core.quantization.aimet import quantsim
from zoo_core.quantization.channel_clip import ChannelClip
from zoo_core.quantization.steps.relu6 import apply_policy
from zoo_core.recipes import shipped_configs

if TYPE_CHECKING:
    from collections.abc import Mapping

X = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture(scope="module")
def uneven_network() -> MobileNetV2SSDLite:
    """An untrained network whose batch norms do something; shared by the module: do not modify."""
    network = build_network(num_classes_with_background=3)
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2)
    return network


def folded_copy(network: MobileNetV2SSDLite) -> nn.Module:
    """Batch norms folded by torch's own function, the reference here."""
    copied = copy.deepcopy(network)
    for parent in list(copied.modules()):
        children = list(parent.named_children())
        for (name, child), (next_name, follower) in itertools.pairwise(children):
            if isinstance(child, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(child, follower))
                setattr(parent, next_name, nn.Identity())
    return copied


def scores_of(network: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        scores: torch.Tensor = network(X)[0]
    return scores


def write(path: Path, state_dict: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state_dict.items()}, path, metadata=metadata)
    else:
        torch.save(dict(state_dict), path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_original_checkpoint_loads_unchanged(
    uneven_network: MobileNetV2SSDLite, tmp_path: Path, suffix: str
) -> None:
    path = write(tmp_path / f"original{suffix}", uneven_network.state_dict())
    loaded = load_network(path, optimized=False, num_classes_with_background=3)
    assert loaded.notes == ()
    assert not loaded.network.training
    assert torch.equal(scores_of(loaded.network), scores_of(uneven_network))


def test_half_precision_weights_become_float32(uneven_network: MobileNetV2SSDLite) -> None:
    network = build_network(3)
    half = {
        key: value.half() if value.is_floating_point() else value for key, value in uneven_network.state_dict().items()
    }
    load_weights(network, half, "half.pth")
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}
    key = "base_net.0.0.weight"
    torch.testing.assert_close(network.state_dict()[key], uneven_network.state_dict()[key], rtol=1e-3, atol=1e-6)


def test_a_folded_checkpoint_computes_what_the_original_did_where_relu6_was_kept(
    uneven_network: MobileNetV2SSDLite, tmp_path: Path
) -> None:
    metadata = {"folded": "true", "relu6_policy": "keep"}
    folded = folded_copy(uneven_network)
    path = write(tmp_path / "folded.safetensors", folded.state_dict(), metadata)
    loaded = load_network(path, optimized=True, num_classes_with_background=3)
    assert torch.equal(scores_of(loaded.network), scores_of(folded))
    torch.testing.assert_close(scores_of(loaded.network), scores_of(uneven_network), rtol=0, atol=5e-3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in loaded.network.modules())
    assert len(loaded.notes) == 1


def test_published_optimized_weights_get_relu_in_the_place_of_relu6(
    uneven_network: MobileNetV2SSDLite, tmp_path: Path
) -> None:
    folded = folded_copy(uneven_network)
    folded.state_dict()["base_net.0.0.weight"].mul_(20)  # so that the ceiling matters
    loaded = load_network(
        write(tmp_path / "w8a8.pth", folded.state_dict()), optimized=True, num_classes_with_background=3
    )
    assert not any(isinstance(module, nn.ReLU6) for module in loaded.network.modules())
    expected, _, _ = apply_policy(folded, "replace", X)
    assert torch.equal(scores_of(loaded.network), scores_of(expected))
    assert not torch.allclose(scores_of(loaded.network), scores_of(folded))
    assert "ReLU6 is replaced by ReLU" in loaded.notes[1]


def test_weights_with_a_clip_per_channel_keep_their_ceilings(
    uneven_network: MobileNetV2SSDLite, tmp_path: Path
) -> None:
    clipped, _, _ = apply_policy(folded_copy(uneven_network), "per_channel_clip", X)
    generator = torch.Generator().manual_seed(0)
    for module in clipped.modules():
        if isinstance(module, ChannelClip):
            module.rescale(torch.rand(module.ceiling.numel(), generator=generator) + 2)
    metadata = {"folded": "true", "relu6_policy": "per_channel_clip"}
    path = write(tmp_path / "network.safetensors", clipped.state_dict(), metadata)
    loaded = load_network(path, optimized=True, num_classes_with_background=3)
    assert sum(isinstance(module, Clip) for module in loaded.network.modules()) == 53
    assert torch.equal(scores_of(loaded.network), scores_of(clipped))
    assert not torch.allclose(scores_of(loaded.network), scores_of(uneven_network))


@pytest.mark.slow
def test_a_loaded_clip_is_simulated_with_the_quantizers_of_the_exported_one(
    uneven_network: MobileNetV2SSDLite, tmp_path: Path
) -> None:
    exported, _, _ = apply_policy(folded_copy(uneven_network), "per_channel_clip", X)
    path = write(tmp_path / "network.safetensors", exported.state_dict(), {"relu6_policy": "per_channel_clip"})
    loaded = load_network(path, optimized=True, num_classes_with_background=3).network
    config_file = shipped_configs()["per_tensor_asymmetric"]
    settings = QuantSettings(param_bw=8, output_bw=8, quant_scheme="tf_enhanced", config_file=config_file)
    quantized_outputs = []
    for network in (exported, loaded):
        modules = quantsim.build(network, X, settings).model.named_modules()
        quantized_outputs.append({name for name, module in modules if any(getattr(module, "output_quantizers", []))})
    assert quantized_outputs[0] == quantized_outputs[1]
    assert {"base_net.0.2", "base_net.3.add"} <= quantized_outputs[1]
    assert "base_net.0.0" not in quantized_outputs[1]  # fused with the clip behind it


def test_an_export_of_a_recipe_without_folding_keeps_its_batch_norms(
    uneven_network: MobileNetV2SSDLite, tmp_path: Path
) -> None:
    metadata = {"folded": "false", "relu6_policy": "keep"}
    path = write(tmp_path / "network.safetensors", uneven_network.state_dict(), metadata)
    loaded = load_network(path, optimized=True, num_classes_with_background=3)
    assert torch.equal(scores_of(loaded.network), scores_of(uneven_network))


def test_folding_and_replacing_leave_no_batch_norm_and_no_relu6() -> None:
    network = build_network(3)
    fold_structure(network)
    replace_relu6(network)
    kinds = [type(module) for module in network.modules()]
    assert nn.BatchNorm2d not in kinds
    assert nn.ReLU6 not in kinds
    assert (kinds.count(nn.Identity), kinds.count(nn.ReLU)) == (74, 53)
    assert all(m.bias is not None for m in network.modules() if isinstance(m, nn.Conv2d))


def test_folded_weights_given_as_original_name_the_right_flag(
    uneven_network: MobileNetV2SSDLite, tmp_path: Path
) -> None:
    path = write(tmp_path / "w8a8.pth", folded_copy(uneven_network).state_dict())
    with pytest.raises(CheckpointError, match=r"w8a8.pth was given as an original [\s\S]* with --optimized-checkpoint"):
        load_network(path, optimized=False, num_classes_with_background=3)


def test_original_weights_given_as_optimized_name_the_right_flag(
    uneven_network: MobileNetV2SSDLite, tmp_path: Path
) -> None:
    path = write(tmp_path / "original.pth", uneven_network.state_dict())
    with pytest.raises(CheckpointError, match=r"original.pth was given as an optimized [\s\S]* with --checkpoint"):
        load_network(path, optimized=True, num_classes_with_background=3)


def test_an_unknown_relu6_policy_in_the_metadata_is_an_error(
    uneven_network: MobileNetV2SSDLite, tmp_path: Path
) -> None:
    metadata = {"relu6_policy": "melt"}
    path = write(tmp_path / "network.safetensors", folded_copy(uneven_network).state_dict(), metadata)
    with pytest.raises(CheckpointError, match="relu6_policy = 'melt'; known are keep, replace, per_channel_clip"):
        load_network(path, optimized=True, num_classes_with_background=3)


def test_another_class_count_names_both_counts(uneven_network: MobileNetV2SSDLite) -> None:
    with pytest.raises(
        CheckpointError, match=r"voc.pth: checkpoint has 3 classes incl\. background, label file has 21\."
    ):
        load_weights(build_network(21), uneven_network.state_dict(), "voc.pth")


def test_all_problems_of_a_checkpoint_are_reported_together_and_nothing_is_loaded(
    uneven_network: MobileNetV2SSDLite,
) -> None:
    weights = dict(uneven_network.state_dict())
    del weights["base_net.0.1.weight"], weights["extras.3.conv.0.weight"]
    weights.update({f"priors.{i}": torch.zeros(1) for i in range(5)})
    weights["base_net.0.0.weight"] = torch.zeros(16, 3, 3, 3)
    weights["base_net.1.conv.0.weight"] = torch.full((32, 1, 3, 3), float("nan"))
    weights["base_net.18.0.weight"] = torch.zeros(1280, 320, 1, 1, dtype=torch.int8)
    network = build_network(3)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, weights, "broken.pth")
    text = str(caught.value)
    assert "broken.pth does not fit" in text
    assert "2 keys missing (base_net.0.1.weight, extras.3.conv.0.weight)" in text
    assert "5 keys unexpected (priors.0, priors.1, priors.2, ...)" in text
    assert "1 of another shape (base_net.0.0.weight is (16, 3, 3, 3), not (32, 3, 3, 3))" in text
    assert "1 of another type (base_net.18.0.weight is torch.int8, not torch.float32)" in text
    assert "1 with NaN or infinite values (base_net.1.conv.0.weight)" in text
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_an_infinite_weight_is_an_error(uneven_network: MobileNetV2SSDLite) -> None:
    weights = copy.deepcopy(uneven_network.state_dict())
    weights["regression_headers.5.bias"][3] = float("inf")
    with pytest.raises(CheckpointError, match=r"1 with NaN or infinite values \(regression_headers.5.bias\)"):
        load_weights(build_network(3), weights, "inf.pth")


def test_weights_saved_from_data_parallel_are_told_how_to_be_saved(uneven_network: MobileNetV2SSDLite) -> None:
    weights = {f"module.{key}": value for key, value in uneven_network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"478 keys missing [\s\S]* model\.module\.state_dict\(\)"):
        load_weights(build_network(3), weights, "parallel.pth")
