"""Which classes a folder holds, and the small errors around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from drawn_classes import CLASSES, REGISTRY, entry
from zoo_core.datatypes import DatasetRequest
from zoo_core.errors import DataError, RecipeError
from zoo_core.plugins import PluginHost


def request(root: Path | None, split: str = "val", label_file: Path | None = None) -> DatasetRequest:
    return DatasetRequest(root=root, split=split, label_file=label_file)


def test_folders_of_ones_own_are_the_classes(drawn_classes: Path) -> None:
    dataset = PluginHost().dataset(entry("resnet18"), request(drawn_classes))
    assert dataset.class_names == CLASSES
    assert len(dataset.ids) == 12
    assert dataset.name == drawn_classes.name


def test_a_part_of_imagenet_keeps_imagenets_labels(drawn_classes: Path, tmp_path: Path) -> None:
    for wnid, name in (("n02123045", "disk"), ("n01440764", "frame")):
        (tmp_path / "val" / wnid).mkdir(parents=True)
        source = drawn_classes / "val" / name / f"{name}_0.JPEG"
        (tmp_path / "val" / wnid / "a.JPEG").write_bytes(source.read_bytes())
    dataset = PluginHost().dataset(entry("resnet18"), request(tmp_path))
    assert len(dataset.class_names) == 1000
    targets = [dataset.target(image_id) for image_id in dataset.ids]
    assert [dataset.class_names[target.label] for target in targets] == ["tench", "tabby"]  # type: ignore[attr-defined]
    assert targets[1].label == 281  # type: ignore[attr-defined]


def test_a_flat_split_is_imagenets(drawn_classes: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    source = drawn_classes / "val" / "disk" / "disk_0.JPEG"
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(source.read_bytes())
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG n02123045\n")
    dataset = PluginHost().dataset(entry("resnet18"), request(tmp_path))
    assert dataset.target(dataset.ids[0]).label == 281  # type: ignore[attr-defined]


def test_a_label_file_wins(drawn_classes: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("stripes\nframe\ndisk\n")
    assert (
        PluginHost().dataset(entry("resnet18"), request(drawn_classes, label_file=labels)).class_names[0] == "stripes"
    )


def test_without_data_the_layout_is_told() -> None:
    with pytest.raises(DataError, match=r"(?s)evaluates on 'imagenet'.*--data: <folder>/val/<wnid>/\*\.JPEG"):
        PluginHost().dataset(entry("resnet18"), request(None))


def test_an_unknown_recipe_shows_the_closest() -> None:
    with pytest.raises(RecipeError, match="the closest is 'w4a8_per_channel'"):
        PluginHost().recipe(entry("resnet18"), "w4a8")


def test_the_further_model_of_the_card_is_one_entry_in_any_file(drawn_classes: Path, tmp_path: Path) -> None:
    card = (REGISTRY.parent / "README.md").read_text(encoding="utf-8")
    (tmp_path / "more.yaml").write_text(card.split("```yaml\n")[1].split("```")[0])
    host = PluginHost(registries=[tmp_path / "more.yaml"])

    further = host.model("torchvision_regnet_y_400mf")
    dataset = host.dataset(further, request(drawn_classes))
    bundle = host.load_model(further, None, dataset.class_names, "cpu")

    assert host.recipe(further, further.recipe).name == "w8a8_per_channel"
    assert tuple(bundle.network(bundle.example_input).shape) == (1, len(CLASSES))
