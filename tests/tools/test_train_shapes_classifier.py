from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import zoo_torchvision_classification
from tools.train_shapes_classifier import SETTING, WIDTH_MULT, TrainConfig, build, main, pictures, train
from zoo_core.datasets.shapes import CLASS_NAMES, DRAWING_VERSION
from zoo_core.datasets.shapes_folder import cut_out
from zoo_core.registry import load_registry
from zoo_torchvision_classification import hooks

PLUGIN = Path(zoo_torchvision_classification.__file__).parent
TINY = TrainConfig(pictures=32, epochs=2, batch_size=8)


def test_training_repeats_and_learns() -> None:
    lines: list[str] = []
    first, second = train(TINY, lines.append), train(TINY, lines.append)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    losses = [float(line.rpartition(" ")[2]) for line in lines]
    assert losses[:2] == losses[2:]
    assert losses[1] < losses[0]
    assert not first.training


def test_inputs_are_those_of_the_plugins_preprocessing() -> None:
    entry = load_registry(PLUGIN / "registry.yaml")["torchvision_mobilenet_v2_shapes"]
    bundle = hooks.zoo_load_model(entry, None, CLASS_NAMES, "cpu")
    x, labels = pictures("test", 2)
    for row, (label, image) in enumerate(islice(cut_out("test"), 2)):
        assert int(labels[row]) == label
        torch.testing.assert_close(x[row], torch.from_numpy(bundle.preprocess(image)), rtol=0, atol=1e-6)


def test_the_command_line_writes_a_checkpoint_with_its_facts(tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    main(["--pictures", "512", "--epochs", "1", "--test-pictures", "10", "--out", str(out)])
    with safe_open(out, "pt") as file:
        facts = json.loads(file.metadata()["training"])
    assert (facts["pictures"], facts["epochs"], facts["seed"]) == (512, 1, 0)
    assert set(load_file(out)) == set(build().state_dict())


def test_the_shipped_checkpoint_is_of_this_network_and_small() -> None:
    entry = load_registry(PLUGIN / "registry.yaml")["torchvision_mobilenet_v2_shapes"]
    assert entry.options["builder_args"] == {"width_mult": WIDTH_MULT, "inverted_residual_setting": SETTING}
    path = PLUGIN / "checkpoints" / "shapes.safetensors"
    assert path.stat().st_size < 400_000
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["training"])
        dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - no mapping
    assert dtypes == {"F16", "I64"}
    assert facts["classes"] == ",".join(CLASS_NAMES)
    assert facts["drawing_version"] == DRAWING_VERSION
    assert (facts["pictures"], facts["epochs"]) == (TrainConfig().pictures, TrainConfig().epochs)
