"""A small network with what large ones have: batch norms, ReLU6, a depthwise layer, a residual addition, two heads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo_core.datatypes import QuantSettings, StepContext


class Plus(nn.Module):
    """An addition of a class that no quantization tool has heard of."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.plus = Plus()
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        y: torch.Tensor = self.plus(x, self.project(self.depthwise(self.expand(x))))
        return self.head(y), y


class Batches:
    """Calibration images that exist."""

    def __init__(self, images: torch.Tensor, batch_size: int) -> None:
        self._batches = torch.split(images, batch_size)
        self.num_images = len(images)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


CONFIG = {
    "defaults": {
        "ops": {"is_output_quantized": "True", "is_symmetric": "False"},
        "params": {"is_quantized": "True", "is_symmetric": "False"},
        "strict_symmetric": "False",
        "per_channel_quantization": "False",
    },
    "params": {"bias": {"is_quantized": "False"}},
    "op_type": {},
    "supergroups": [{"op_list": ["Conv", "Relu"]}, {"op_list": ["Conv", "Clip"]}],
    "model_input": {},
    "model_output": {},
}


@pytest.fixture
def network() -> nn.Module:
    """Weights whose ranges differ much between channels, so that ReLU6 clips and equalization has work."""
    generator = torch.Generator().manual_seed(1)
    made = SmallNet().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) * 4 + 0.1)
                variance = module.get_buffer("running_var")
                variance.copy_(torch.rand(variance.shape, generator=generator) + 0.5)
    return made


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    config_file = tmp_path / "aimet_config.json"
    config_file.write_text(json.dumps(CONFIG), encoding="utf-8")
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    return StepContext(
        example_input=images[:1],
        calibration=Batches(images, 4),
        quant=QuantSettings(param_bw=8, output_bw=8, quant_scheme="tf_enhanced", config_file=config_file),
        seed=3,
        work_dir=work_dir,
        progress=lambda *_: None,
    )
