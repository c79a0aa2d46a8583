from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from drawn_classes import MODELS, REGISTRY, SMALL, entry
from zoo_core import artifacts
from zoo_core.datasets.imagenet import imagenet_classes
from zoo_core.datatypes import Checkpoint, Classification, ImageSize
from zoo_core.errors import CheckpointError, RegistryError
from zoo_core.registry import load_registry
from zoo_torchvision_classification import hooks
from zoo_torchvision_classification.model import for_device

NAMES = ("a", "b", "c")


@pytest.fixture
def noise() -> NDArray[Any]:
    return np.random.default_rng(1).integers(0, 256, (270, 300, 3), dtype=np.uint8)


def tiny(model: str = "mobilenet_v2", **options: Any) -> Any:
    return entry(model, transforms_args=SMALL, **options)


def checkpoint(path: Path, network: torch.nn.Module, **metadata: str) -> Checkpoint:
    artifacts.save_state_dict(path, network.state_dict(), metadata)
    return Checkpoint(path=path, sha256="0" * 64, optimized="folded" in metadata)


# --------------------------------------------------------------------------- the registry against torchvision


def each_entry() -> Iterator[Any]:
    return iter(load_registry(REGISTRY).values())


def test_the_five_models_are_there() -> None:
    assert [found.model_id for found in each_entry()][:5] == [f"torchvision_{name}" for name in MODELS]


@pytest.mark.parametrize("builder", MODELS)
def test_file_hash_and_accuracies_are_those_of_torchvisions_weights(builder: str) -> None:
    found = entry(builder)
    weights = torchvision.models.get_weight(found.options["weights"])
    assert found.checkpoint is not None
    assert found.checkpoint.url == weights.url
    digits = re.search(torch.hub.HASH_REGEX, weights.url.rpartition("/")[2])  # what check_hash compares with
    assert digits
    assert found.checkpoint.sha256_prefix == digits[1]
    published = weights.meta["_metrics"]["ImageNet-1K"]
    values = {reference.key: reference.value for reference in found.references}
    assert values == {
        "top1": pytest.approx(published["acc@1"] / 100),
        "top5": pytest.approx(published["acc@5"] / 100),
    }


def test_the_class_names_are_torchvisions_and_the_wnids_in_order() -> None:
    wnids, names = imagenet_classes()
    assert list(names) == torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert list(wnids) == sorted(set(wnids))
    assert len(wnids) == 1000
    assert dict(zip(wnids, names, strict=True))["n02123045"] == "tabby"


# --------------------------------------------------------------------------- what a bundle does


@pytest.mark.parametrize("builder", MODELS)
def test_preprocessing_is_torchvisions_bit_for_bit(builder: str, noise: NDArray[Any]) -> None:
    found = entry("resnet18", weights=entry(builder).options["weights"])  # the others take longer to build
    bundle = hooks.zoo_load_model(found, None, NAMES, "cpu")
    expected = torchvision.models.get_weight(found.options["weights"]).transforms()(Image.fromarray(noise))
    made = bundle.preprocess(noise)
    assert made.dtype == np.float32
    assert made.tobytes() == expected.numpy().tobytes()
    assert bundle.example_input.shape == (1, *expected.shape) == (1, 3, 224, 224)


@pytest.mark.parametrize("builder", MODELS)
def test_untrained_networks_work_end_to_end_and_repeat(builder: str, noise: NDArray[Any]) -> None:
    bundle = hooks.zoo_load_model(tiny(builder), None, NAMES, "cpu")
    again = hooks.zoo_load_model(tiny(builder), None, NAMES, "cpu")
    x = torch.from_numpy(bundle.preprocess(noise))[None]
    assert x.shape == bundle.example_input.shape == (1, 3, 32, 32)
    with torch.inference_mode():
        outputs = bundle.network(x)
        assert torch.equal(outputs, again.network(x))
    (found,) = bundle.decode((outputs,), [ImageSize(width_px=300, height_px=270)])
    assert isinstance(found, Classification)
    assert sorted(found.labels.tolist()) == [0, 1, 2]
    assert found.scores.sum() == pytest.approx(1.0)
    assert not bundle.network.training
    assert "untrained" in bundle.notes[0]


@pytest.mark.parametrize("builder", ["mobilenet_v2", "efficientnet_b0"])
def test_the_network_is_torchvisions_without_what_does_nothing(builder: str) -> None:
    torch.manual_seed(3)
    published = torchvision.models.get_model(builder, num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = published(x)
        keys = list(published.state_dict())
        changed = for_device(published)
        assert torch.equal(changed(x), expected)
    assert list(changed.state_dict()) == keys
    assert not any(isinstance(m, torch.nn.Dropout | torchvision.ops.StochasticDepth) for m in changed.modules())
    assert not any(getattr(module, "inplace", False) for module in changed.modules())


# --------------------------------------------------------------------------- weights


def narrow() -> torch.nn.Module:
    torch.manual_seed(5)
    network: torch.nn.Module = torchvision.models.mobilenet_v2(num_classes=3, width_mult=0.25).eval()
    return network


def test_a_checkpoint_is_loaded_and_half_precision_becomes_single(tmp_path: Path) -> None:
    network = narrow()
    found = tiny(builder_args={"width_mult": 0.25})
    bundle = hooks.zoo_load_model(found, checkpoint(tmp_path / "w.safetensors", network.half()), NAMES, "cpu")
    assert bundle.notes == ()
    for name, value in bundle.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name].to(value.dtype))


def test_weights_of_a_run_load_with_batch_norms_folded(tmp_path: Path) -> None:
    found = tiny(builder_args={"width_mult": 0.25})
    network = for_device(narrow())
    x = torch.randn(1, 3, 32, 32)
    for module in list(network.modules()):
        if not isinstance(module, torch.nn.Sequential):
            continue
        for first in range(len(module) - 1):
            convolution, norm = module[first], module[first + 1]
            if isinstance(convolution, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                module[first] = torch.nn.utils.fuse_conv_bn_eval(convolution, norm)
                module[first + 1] = torch.nn.Identity()
    file = checkpoint(tmp_path / "w.safetensors", network, folded="true")
    bundle = hooks.zoo_load_model(found, file, NAMES, "cpu")
    with torch.inference_mode():
        assert torch.equal(bundle.network(x), network(x))
    assert bundle.notes == ("The weights were loaded with batch norms folded into the convolutions.",)


def test_weights_for_another_number_of_classes_say_so(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "w.safetensors", narrow())
    found = tiny(builder_args={"width_mult": 0.25})
    with pytest.raises(CheckpointError, match=r"MobileNetV2 with 2 outputs: .*1\.weight has shape \(3, 1280\)"):
        hooks.zoo_load_model(found, file, NAMES[:2], "cpu")


def test_weights_of_another_network_are_listed_together(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "w.safetensors", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"features.* is missing; .*, and \d+ more"):
        hooks.zoo_load_model(tiny(), file, NAMES, "cpu")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = narrow()
    with torch.no_grad():
        next(network.parameters())[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"features.0.0.weight is not finite"):
        hooks.zoo_load_model(
            tiny(builder_args={"width_mult": 0.25}), checkpoint(tmp_path / "w.safetensors", network), NAMES, "cpu"
        )


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_integer_and_complex_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in narrow().state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    file = Checkpoint(path=tmp_path / "w.pth", sha256="0" * 64)
    with pytest.raises(CheckpointError, match=rf"features.0.0.weight is {dtype}, not torch.float32; .*, and \d+ more"):
        hooks.zoo_load_model(tiny(builder_args={"width_mult": 0.25}), file, NAMES, "cpu")


# --------------------------------------------------------------------------- options, light import


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"builder": "mobilenet_v9"}, "has no classifier 'mobilenet_v9'; the closest is 'mobilenet_v"),
        ({"weights": "ResNet18_Weights.V9"}, r"options\.weights: torchvision .* has no 'ResNet18_Weights\.V9'"),
        ({"builder": 3}, "needs 'builder', a text"),
        ({"widht": 1}, "does not know 'widht'"),
        ({"builder_args": {"widht_mult": 1}}, r"options\.builder_args: torchvision does not accept"),
        ({"builder_args": 3}, "needs a mapping for 'builder_args'"),
    ],
)
def test_an_option_that_torchvision_does_not_know_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        hooks.zoo_load_model(tiny("resnet18", **options), None, NAMES, "cpu")


def test_importing_the_hooks_loads_no_framework() -> None:
    code = (
        "import sys, zoo_torchvision_classification.hooks;"
        "print([m for m in ('torch', 'torchvision', 'numpy', 'PIL', 'cv2', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"
