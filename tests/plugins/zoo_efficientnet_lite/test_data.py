"""The data of the photographs' layout, and the further entry of the card."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo_core.datasets.imagenet import imagenet_classes
from zoo_core.datatypes import ClassTarget, DatasetRequest
from zoo_core.errors import DataError
from zoo_core.plugins import PluginHost
from zoo_efficientnet_lite import hooks
from zoo_efficientnet_lite.model import Preprocess


@pytest.mark.data
def test_folders_named_by_wnids_have_imagenets_labels(photos: Path) -> None:
    host = PluginHost()
    dataset = host.dataset(host.model("efficientnet_lite0"), DatasetRequest(root=photos, split="val"))
    wnids, _ = imagenet_classes()
    assert len(dataset.ids) == 53
    assert len(dataset.class_names) == 1000
    for image_id in dataset.ids:
        target = dataset.target(image_id)
        assert isinstance(target, ClassTarget)
        assert wnids[target.label] == image_id.split("/")[1]


def test_without_data_the_layout_is_told() -> None:
    host = PluginHost()
    with pytest.raises(DataError, match=r"(?s)evaluates on 'imagenet'.*--data: <folder>/val/<wnid>/\*\.JPEG"):
        host.dataset(host.model("efficientnet_lite1"), DatasetRequest(root=None, split="val"))


def test_the_entry_of_the_card_crops_like_the_authors(tmp_path: Path) -> None:
    card = hooks.zoo_registry().with_name("README.md").read_text(encoding="utf-8")
    (tmp_path / "more.yaml").write_text(card.split("```yaml\n")[1].split("```")[0])
    host = PluginHost(registries=[tmp_path / "more.yaml"])

    cropped, whole = host.model("efficientnet_lite0_cropped"), host.model("efficientnet_lite0")

    assert cropped.checkpoint == whole.checkpoint
    bundle = hooks.zoo_load_model(cropped, None, ("a", "b"), "cpu")
    assert isinstance(bundle.preprocess, Preprocess)
    assert bundle.preprocess.crop_fraction == 0.875
