"""``zoo-eval new-plugin``: the names it refuses, what it writes, and that the package works once it is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from environments import Environment
from toy_detector import hooks as toy
from zoo_core.cli.main import run_command_line
from zoo_core.errors import PluginError
from zoo_core.plugins import PluginHost
from zoo_core.registry import load_registry
from zoo_core.scaffold import TASKS, Task, new_plugin

NAME = "brand_new"


@pytest.fixture
def host() -> PluginHost:
    host = PluginHost()
    host.register(toy, "toy_detector")
    return host


@pytest.mark.parametrize("task", TASKS)
def test_the_package_is_complete(task: Task, host: PluginHost, tmp_path: Path) -> None:
    files = new_plugin(NAME, task, tmp_path, host)

    assert {str(path.relative_to(tmp_path / NAME)) for path in files} == {
        "README.md",
        "pyproject.toml",
        f"{NAME}/__init__.py",
        *([f"{NAME}/decode.py"] if task == "detection" else []),
        f"{NAME}/hooks.py",
        f"{NAME}/network.py",
        f"{NAME}/registry.yaml",
        "tests/test_plugin.py",
    }
    for path in files:
        text = path.read_text()
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert "{{" not in text
        assert "{%" not in text
        assert "TODO" not in text
        if path.suffix == ".py":
            compile(text, str(path), "exec")
    readme = (tmp_path / NAME / "README.md").read_text()
    code = "".join(path.read_text() for path in files if path.suffix == ".py")
    for function in ("preprocess", "encode"):
        assert (f"`{function}`" in readme) == (f"def {function}(" in code), function
    (entry,) = load_registry(tmp_path / NAME / NAME / "registry.yaml").values()
    assert (entry.model_id, entry.task) == (NAME, task)
    assert host.recipe(dataclasses.replace(entry, plugin="toy_detector"), entry.recipe).steps[-1].step == "quantsim"


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed")
@pytest.mark.parametrize("task", TASKS)
def test_the_package_is_clean_to_a_linter(task: Task, host: PluginHost, tmp_path: Path) -> None:
    new_plugin(NAME, task, tmp_path, host)

    rules = "B,C4,D1,E,F,I,N,PERF,PT,PTH,RET,RUF,SIM,TID,UP,W"
    for arguments in (["check", "--select", rules, "--ignore", "D107,D101,D103"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
        done = subprocess.run(command, cwd=tmp_path / NAME, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("My_Detector", "cannot be the name of a plugin"),
        ("my-detector", "cannot be the name of a plugin"),
        ("2fast", "cannot be the name of a plugin"),
        ("class", "cannot be the name of a plugin"),
        ("match", "cannot be the name of a plugin"),
        ("", "cannot be the name of a plugin"),
        ("../elsewhere", "cannot be the name of a plugin"),
        ("ssd_mobilenetv2_lite", "is a plugin already"),
        ("toy_detector", "is a plugin already"),
        ("toy_squares", r"is a model \(.*registry.yaml\) already"),
        ("numpy", "is an installed package already"),
        ("json", "is an installed package already"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(name: str, words: str, host: PluginHost, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=words):
        new_plugin(name, "detection", tmp_path, host)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(host: PluginHost, tmp_path: Path) -> None:
    mine = tmp_path / NAME / "pyproject.toml"
    mine.parent.mkdir()
    mine.write_text("mine")

    with pytest.raises(PluginError, match="exists already; nothing is overwritten"):
        new_plugin(NAME, "detection", tmp_path, host)
    assert mine.read_text() == "mine"
    assert [path.name for path in (tmp_path / NAME).iterdir()] == ["pyproject.toml"]


def test_a_folder_that_cannot_be_written_is_named(host: PluginHost, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(PluginError, match="cannot be written: Not a directory"):
        new_plugin(NAME, "detection", tmp_path / "file", host)


def test_the_command_says_what_it_wrote_and_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["new-plugin", NAME, "--task", "classification", "--out", str(tmp_path)]) == 0

    captured = capsys.readouterr()
    assert str(tmp_path / NAME / "pyproject.toml") in captured.out.splitlines()
    assert f"zoo-eval validate {NAME}" in captured.err
    assert run_command_line(["new-plugin", NAME, "--out", str(tmp_path)]) == 2
    assert run_command_line(["new-plugin", "another_one", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path / "another_one")


# --------------------------------------------------------------------------- in an environment of its own


TRAIN = """
import sys
from pathlib import Path
import torch
from brand_new.hooks import zoo_conformance
from brand_new.network import load_network, preprocess
from zoo_core.artifacts import save_state_dict
from zoo_core.datatypes import ImageSize
from zoo_core.plugins import PluginHost

entry = PluginHost().model("brand_new")
kit = zoo_conformance(entry, Path(sys.argv[1]))
scenes = kit.scenes[entry.dataset.split]
images = torch.stack([torch.from_numpy(preprocess(scene.image)) for scene in scenes])
sizes = [ImageSize(width_px=scene.image.shape[1], height_px=scene.image.shape[0]) for scene in scenes]
wanted = kit.encode([scene.target for scene in scenes], sizes)
labels = wanted[0].argmax(1)
network, _ = load_network(None, 3)
optimizer = torch.optim.Adam(network.parameters(), 0.003)
for _ in range(400):
    found = network(images)
    found = found if isinstance(found, tuple) else (found,)
    loss = torch.nn.functional.cross_entropy(found[0], labels)
    if len(found) == 2:
        cells = (labels > 0)[:, None]
        loss = loss + 5 * ((found[1].sigmoid() - wanted[1].sigmoid()).abs() * cells).sum() / cells.sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
save_state_dict(Path(sys.argv[2]), network.state_dict(), {})
print(kit.root, kit.label_file, sep=chr(10))
"""
"""Fits the network to the pictures that it is evaluated on: a run that scores low has a fault between the two."""


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_it_builds_installs_passes_its_own_tests_validates_and_runs(
    task: Task, host: PluginHost, tmp_path: Path
) -> None:
    new_plugin(NAME, task, tmp_path / "made", host)
    source, outside = tmp_path / "made" / NAME, tmp_path / "outside"
    outside.mkdir()
    environment = Environment(tmp_path / "venv")

    wheels = str(tmp_path / "wheels")
    environment("python", "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheels, str(source))
    (wheel,) = Path(wheels).glob("*.whl")
    environment("python", "-m", "pip", "install", "-q", "--no-deps", str(wheel))

    tested = environment("python", "-m", "pytest", "-q", str(source / "tests"), "-p", "no:cacheprovider", cwd=outside)
    assert " passed" in tested
    assert "failed" not in tested
    printed = environment("python", "-m", "zoo_core.cli.main", "validate", NAME, cwd=outside)
    assert "failed" not in printed
    assert "every step of the recipe runs" in printed
    assert NAME in environment("python", "-m", "zoo_core.cli.main", "list", cwd=outside)

    (tmp_path / "data").mkdir()
    trained = environment(
        "python", "-c", TRAIN, str(tmp_path / "data"), str(tmp_path / "brand.safetensors"), cwd=outside
    )
    root, labels = trained.splitlines()[-2:]
    given = ["--data", root, "--labels", labels, "--checkpoint", str(tmp_path / "brand.safetensors")]
    environment("python", "-m", "zoo_core.cli.main", "run", NAME, *given, "--out", "run", cwd=outside)
    record = json.loads((outside / "run" / "run.json").read_text())
    assert (record["status"], record["plugin"], record["model"]) == ("complete", NAME, NAME)
    assert record["sources"][NAME]["version"] == "0.1.0"
    stages = json.loads((outside / "run" / "metrics.json").read_text())["stages"]
    protocol, value = ("voc07_11pt/devkit", "map") if task == "detection" else ("topk/first", "top1")
    reached = {name: stage["metrics"][protocol][value] for name, stage in stages.items()}
    assert reached["fp32"] > 0.9
    assert reached["w8a8"] > 0.8
    assert (outside / "run" / "report.html").exists()
