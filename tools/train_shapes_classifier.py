"""Train a small MobileNetV2 from scratch on cut-out shapes and write the classification demo's checkpoint.

Three minutes on one core of an AMD EPYC with the defaults. ``python -m tools.train_shapes_classifier --help`` lists the
options.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from zoo_core.artifacts import save_state_dict, sha256_of
from zoo_core.datasets.shapes import CLASS_NAMES, DRAWING_VERSION, Split
from zoo_core.datasets.shapes_folder import cut_out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SETTING = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 2, 2]]
"""Expansion, channels, repeats and stride of each stage; the registry entry's ``builder_args`` repeat it."""
WIDTH_MULT = 0.5

_LABEL_SMOOTHING = 0.05
_MAX_LR = 4e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Configuration of a training run.

    Attributes:
        pictures: Cut-out shapes used in every epoch.
        epochs: Rounds over them; the one-cycle schedule is stretched over all.
        batch_size: Pictures a step.
        seed: Of weights, order and flips.
    """

    pictures: int = 6000
    epochs: int = 12
    batch_size: int = 64
    seed: int = 0


def build() -> nn.Module:
    """Build the demo's network, untrained."""
    network: nn.Module = mobilenet_v2(
        num_classes=len(CLASS_NAMES), width_mult=WIDTH_MULT, inverted_residual_setting=SETTING, dropout=0.0
    )
    return network


def pictures(split: Split, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(N, 3, 64, 64)`` network inputs, normalized as torchvision does, and their labels ``(N,)``."""
    labels, images = zip(*itertools.islice(cut_out(split), count), strict=True)
    preset = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preset.mean, preset.std))
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (x - mean) / std, torch.tensor(labels)


def train(config: TrainConfig, report: Callable[[str], None]) -> nn.Module:
    """Train and return the network in eval mode; the same config, machine and versions give the same weights."""
    x, y = pictures("train", config.pictures)
    torch.manual_seed(config.seed)
    network = build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_MAX_LR, weight_decay=1e-2)
    batches = config.pictures // config.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _MAX_LR, total_steps=config.epochs * batches, pct_start=0.25
    )
    generator = torch.Generator().manual_seed(config.seed)
    network.train()
    for epoch in range(config.epochs):
        order, total = torch.randperm(config.pictures, generator=generator), 0.0
        for rows in order[: batches * config.batch_size].view(batches, config.batch_size):
            batch = x[rows]
            if torch.rand((), generator=generator) < 0.5:
                batch = batch.flip(3)
            outputs = network(batch.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(outputs, y[rows], label_smoothing=_LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        report(f"epoch {epoch + 1} of {config.epochs}: loss {total / batches:.3f}")
    return network.eval()


def top1(network: nn.Module, split: Split, count: int) -> float:
    """Compute the top-1 accuracy on the first ``count`` cut-out shapes of a split."""
    x, y = pictures(split, count)
    with torch.inference_mode():
        return float((network(x).argmax(1) == y).float().mean())


def write_checkpoint(network: nn.Module, path: Path, facts: dict[str, str | int | float]) -> str:
    """Write the weights in half precision with what they were trained on; returns the file's SHA-256."""
    weights = {
        name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()
    }
    save_state_dict(path, weights, {"training": json.dumps(facts, sort_keys=True)})
    return sha256_of(path)


def facts_of(config: TrainConfig, value: float) -> dict[str, str | int | float]:
    """Return the checkpoint's metadata."""
    return {
        "classes": ",".join(CLASS_NAMES),
        "drawing_version": DRAWING_VERSION,
        "pictures": config.pictures,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "test_top1": round(value, 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with the command line's options."""
    default = TrainConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--pictures", type=int, default=default.pictures, help="cut-out shapes to train on")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="rounds over them")
    parser.add_argument("--seed", type=int, default=default.seed, help="of weights, order and flips")
    parser.add_argument("--test-pictures", type=int, default=600, help="shapes of the split test for the last line")
    parser.add_argument("--out", type=Path, default=Path("shapes.safetensors"), help="the checkpoint")
    options = parser.parse_args(arguments)
    config = TrainConfig(pictures=options.pictures, epochs=options.epochs, seed=options.seed)
    network = train(config, _report)
    value = top1(network, "test", options.test_pictures)
    _report(f"top-1 on {options.test_pictures} shapes: {value:.4f}")
    digest = write_checkpoint(network, options.out, facts_of(config, value))
    _report(f"{options.out}: {options.out.stat().st_size} bytes, sha256 {digest}")


def _report(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
