"""docs/tutorial-plugin.md is true: its blocks run in order, and print what it shows."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from drawn_classes import write_classes
from environments import Environment
from zoo_core import artifacts
from zoo_core.datatypes import Checkpoint, Classification, ImageSize, ModelBundle, ModelEntry
from zoo_core.evaluation.run import evaluate_request
from zoo_core.hookspecs import hookimpl
from zoo_core.metrics.classification import rank_classes
from zoo_core.plugins import PluginHost
from zoo_core.runs.request import EvaluationRequest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial-plugin.md"
CONTINUED = " (continued)"


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str


def read_blocks(text: str) -> list[Block]:
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', text, flags=re.DOTALL | re.MULTILINE)
    return [Block(*parts) for parts in found]


def write_file(block: Block, folder: Path) -> None:
    path = folder / block.title.removesuffix(CONTINUED)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert path.exists() == block.title.endswith(CONTINUED), block.title
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n\n" if path.suffix == ".py" and path.exists() and path.stat().st_size else "") + block.text)


def plain(text: str) -> str:
    """Words with single spaces, without the lines of tables."""
    return " ".join(re.sub("[\u2500-\u257f]", " ", text).split())


def test_every_block_is_a_file_a_command_or_what_it_prints() -> None:
    for block in read_blocks(PAGE.read_text(encoding="utf-8")):
        assert block.title or block.language in ("bash", "text"), block.text


# --------------------------------------------------------------------------- the entry of the first step


def six_layers(num_classes: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, num_classes),
        ).eval()


def decode(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Classification]:
    return [rank_classes(logits) for logits in outputs[0].numpy()]


@dataclass(eq=False)  # pluggy keeps plugins in sets
class TwoHooks:
    """Implements only what every plugin with a model must."""

    registry: Path

    @hookimpl
    def zoo_registry(self) -> Path:
        return self.registry

    @hookimpl
    def zoo_load_model(
        self, entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
    ) -> ModelBundle:
        assert checkpoint is not None
        network = six_layers(len(class_names))
        network.load_state_dict(artifacts.load_state_dict(checkpoint.path))
        return ModelBundle(
            network=network.to(device),
            example_input=torch.zeros(1, 3, 48, 60),
            preprocess=lambda image: image.transpose(2, 0, 1).astype("float32") / 255,
            decode=decode,
        )


def test_the_entry_of_the_first_step_suffices_for_a_run_with_two_hooks(tmp_path: Path) -> None:
    marked = re.search(r"<!-- example: two hooks -->\n(.*?)<!-- end -->", PAGE.read_text(), flags=re.DOTALL)
    assert marked
    (block,) = read_blocks(marked[1])
    write_file(block, tmp_path)
    host = PluginHost(installed=False)
    host.register(TwoHooks(tmp_path / block.title), "day_night")
    artifacts.save_state_dict(tmp_path / "weights.safetensors", six_layers(3).state_dict(), {})

    request = EvaluationRequest(
        model="day_night",
        data=write_classes(tmp_path / "data"),
        checkpoint=tmp_path / "weights.safetensors",
        stages="fp32,w8a8",
        out=tmp_path / "run",
        workers=0,
    )
    result = evaluate_request(request, host=host)

    assert list(result.stages) == ["fp32", "w8a8"]
    scores = {name: stage.scores["topk/first"] for name, stage in result.stages.items()}
    # Untrained: it gives all 12 pictures one class of three.
    assert scores["fp32"].values["top1"] == pytest.approx(1 / 3)
    assert set(scores["w8a8"].per_class) == {"disk", "frame", "stripes"}


# --------------------------------------------------------------------------- the whole page


@pytest.mark.slow
def test_following_the_tutorial_ends_with_a_complete_run(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    work = tmp_path / "work"
    work.mkdir()
    printed = ""
    for block in read_blocks(PAGE.read_text(encoding="utf-8")):
        if block.title:
            write_file(block, work)
        elif block.language == "bash":
            printed = "\n".join(execute(line, environment, work) for line in block.text.splitlines())
        else:
            for line in block.text.splitlines():
                assert plain(line) in plain(printed), printed
    for run in ("RUN", "RUN4"):
        assert (work / run / "report.html").exists()
        assert (work / run / "run.json").exists()


def execute(line: str, environment: Environment, work: Path) -> str:
    if line.startswith("mv "):
        _, source, target = line.split()
        shutil.move(work / source, work / target)
        return ""
    if line.startswith("pip install"):  # what it depends on is visible already
        line = "python -m " + line.replace('-e ".[test]"', "-q --no-deps --no-build-isolation -e .")
    if line.startswith("zoo-eval "):  # the command itself may be installed elsewhere
        line = line.replace("zoo-eval", "python -m zoo_core.cli.main", 1)
    return environment(*shlex.split(line), cwd=work)
