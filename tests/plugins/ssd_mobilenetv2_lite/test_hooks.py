from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssd_mobilenetv2_lite import hooks
from zoo_core.datatypes import Checkpoint, DatasetEntry, DatasetRequest, ImageSize, ModelEntry
from zoo_core.errors import CheckpointError, DataError, RecipeError, RegistryError
from zoo_core.plugins import PluginHost

CLASS_NAMES = ("cat", "dog")


def entry_with(**options: object) -> ModelEntry:
    return ModelEntry(
        model_id="ssd",
        plugin="ssd_mobilenetv2_lite",
        task="detection",
        description="",
        dataset=DatasetEntry(layout="voc", name="VOC2007", split="test", calibration_split="trainval"),
        recipe="w8a8_tf_enhanced_cle_adaround",
        recipes="package:ssd_mobilenetv2_lite/recipes",
        headline="voc_area/devkit",
        options=options,
        source=Path("registry.yaml"),
    )


def test_importing_the_hooks_loads_no_framework() -> None:
    code = (
        "import sys, ssd_mobilenetv2_lite.hooks;"
        "print([m for m in ('torch', 'numpy', 'cv2', 'pydantic', 'aimet_torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


def test_without_a_checkpoint_the_bundle_works_end_to_end_and_repeats() -> None:
    bundle = hooks.zoo_load_model(entry_with(), None, CLASS_NAMES, "cpu")
    again = hooks.zoo_load_model(entry_with(), None, CLASS_NAMES, "cpu")
    image = np.full((50, 80, 3), 99, dtype=np.uint8)
    x = torch.from_numpy(bundle.preprocess(image))[None]
    assert x.shape == bundle.example_input.shape
    with torch.inference_mode():
        outputs = bundle.network(x)
        assert torch.equal(outputs[0], again.network(x)[0])
    (found,) = bundle.decode(outputs, [ImageSize(width_px=80, height_px=50)])
    assert set(found.arrays()) == {"boxes", "scores", "labels"}
    assert set(np.unique(found.arrays()["labels"])) <= {0, 1}
    assert outputs[0].shape == (1, 3000, 3)
    assert not bundle.network.training
    assert "untrained" in bundle.notes[0]
    assert torch.equal(bundle.example_input, again.example_input)


def test_the_class_count_follows_the_data_and_a_checkpoint_for_others_is_an_error(tmp_path: Path) -> None:
    three_classes = hooks.zoo_load_model(entry_with(), None, ("a", "b", "c"), "cpu").network
    path = tmp_path / "three.pth"
    torch.save(three_classes.state_dict(), path)
    checkpoint = Checkpoint(path=path, sha256="0" * 64)
    bundle = hooks.zoo_load_model(entry_with(), checkpoint, ("a", "b", "c"), "cpu")
    assert bundle.notes == ()
    with pytest.raises(CheckpointError, match=r"checkpoint has 4 classes incl\. background, label file has 3"):
        hooks.zoo_load_model(entry_with(), checkpoint, CLASS_NAMES, "cpu")


def test_the_width_is_the_entrys_option() -> None:
    network = hooks.zoo_load_model(entry_with(width_mult=0.5), None, CLASS_NAMES, "cpu").network
    assert network.state_dict()["base_net.0.0.weight"].shape[0] == 16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width_mult": "wide"}, r"registry.yaml: ssd.options.width_mult is 'wide', not a number"),
        ({"width_mult": True}, "width_mult is True, not a number"),
        ({"widht_mult": 1.0}, r"ssd.options has 'widht_mult', which ssd_mobilenetv2_lite does not know"),
        ({"width_mult": 0.35}, "198 channels"),
    ],
)
def test_a_wrong_option_is_an_error(options: dict[str, object], words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        hooks.zoo_load_model(entry_with(**options), None, CLASS_NAMES, "cpu")


def test_every_shipped_recipe_is_found_by_its_file_name() -> None:
    shipped = sorted(path.stem for path in (Path(hooks.__file__).parent / "recipes").glob("*.yaml"))
    assert "w8a8_tf_enhanced_cle_adaround" in shipped
    assert [PluginHost().recipe(entry_with(), name).name for name in shipped] == shipped


def test_an_unknown_recipe_lists_those_shipped() -> None:
    with pytest.raises(
        RecipeError, match=r"no recipe 'w8a8_tf'[\s\S]*choose one of [\s\S]*w8a8_tf_enhanced_cle_adaround"
    ):
        PluginHost().recipe(entry_with(), "w8a8_tf")


def test_a_recipe_name_cannot_leave_the_recipes_folder() -> None:
    with pytest.raises(RecipeError, match="no recipe"):
        PluginHost().recipe(entry_with(), "../recipes/w8a8_tf_enhanced_cle_adaround")


def test_the_dataset_is_a_split_in_voc_layout_with_the_label_files_classes(tmp_path: Path) -> None:
    voc = tmp_path / "VOC2007"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (voc / folder).mkdir(parents=True)
    (voc / "ImageSets/Main/test.txt").write_text("000001\n000007\n")
    labels = tmp_path / "labels.txt"
    labels.write_text("BACKGROUND\ncat\ndog\n")
    dataset = PluginHost().dataset(entry_with(), DatasetRequest(root=tmp_path, split="test", label_file=labels))
    assert dataset.ids == ("000001", "000007")
    assert dataset.class_names == CLASS_NAMES
    with pytest.raises(DataError, match="nowhere"):
        PluginHost().dataset(entry_with(), DatasetRequest(root=tmp_path / "nowhere", split="test"))


def test_the_metric_puts_the_entrys_headline_first() -> None:
    metric = PluginHost().metric(entry_with(), CLASS_NAMES)
    assert metric.protocol_ids[0] == "voc_area/devkit"
    assert len(metric.protocol_ids) == 5
