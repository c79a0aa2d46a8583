"""Train MobileNetV2-SSD-lite from scratch on drawn shapes and write the embedded demo's checkpoint.

Every step draws its own pictures from the step's number, so training stores no data and a restart needs only
network, optimizer and step. ``python -m tools.train_shapes --help`` lists the options; tools/README.md
describes the training of the shipped checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save

from ssd_mobilenetv2_lite.decode import decode
from ssd_mobilenetv2_lite.encode import match_priors
from ssd_mobilenetv2_lite.network import MobileNetV2SSDLite, build_network
from ssd_mobilenetv2_lite.preprocess import preprocess
from ssd_mobilenetv2_lite.priors import make_priors
from tools.ssd_loss import TrainBatch, detection_loss
from zoo_core.datasets.shapes import CLASS_NAMES, DRAWING_VERSION, Split, draw_image
from zoo_core.datatypes import DetectionTarget, ImageSize
from zoo_core.metrics.detection import DetectionMetric

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

EMA_DECAY = 0.99
# Batch norms of the averaged weights are measured on this many more batches: the statistics gathered while the
# weights moved belong to other weights.
BATCH_NORM_BATCHES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Configuration of a training run.

    Attributes:
        steps: Optimizer steps; the one-cycle schedule is stretched over them, so a resumed run must agree.
        batch_size: Pictures a step.
        seed: Of the pictures and of the initial weights.
        max_lr: Peak of the one-cycle schedule.
        device: A torch device string.
        init: The state of an earlier run, whose weights are taken instead of random ones; nothing else of it is.
        state_every: Steps between saved states.
    """

    steps: int
    batch_size: int = 12
    seed: int = 2007
    max_lr: float = 2e-3
    device: str = "cpu"
    init: Path | None = None
    state_every: int = 50


def draw_batch(split: Split, first_index: int, config: TrainConfig, priors: NDArray[np.float32]) -> TrainBatch:
    """Draw ``batch_size`` pictures from ``first_index`` on, on the config's device."""
    images, labels, locations = [], [], []
    for index in range(first_index, first_index + config.batch_size):
        picture = draw_image(split, index, seed=config.seed)
        height, width = picture.image.shape[:2]
        images.append(preprocess(picture.image))
        boxes = (picture.boxes / np.array([width, height, width, height], np.float32)).astype(np.float32)
        label, location = match_priors(boxes, picture.labels, priors)
        labels.append(label)
        locations.append(location)
    return TrainBatch(
        images=torch.from_numpy(np.stack(images)).to(config.device, memory_format=torch.channels_last),
        labels=torch.from_numpy(np.stack(labels)).to(config.device),
        locations=torch.from_numpy(np.stack(locations)).to(config.device),
    )


# --------------------------------------------------------------------------- training


class Trainer:
    """Holds network, running average, optimizer and schedule: the content of a saved state.

    Args:
        config: Must equal the config of a state that is loaded.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.step = 0
        self.priors = np.asarray(make_priors(), np.float32)
        network = build_network(len(CLASS_NAMES) + 1, seed=config.seed).train().to(config.device)
        if config.init is None:
            _shrink_heads(network)
        else:
            network.load_state_dict(torch.load(config.init, map_location=config.device, weights_only=True)["network"])
        shrink_normalized_weights(network)
        self.network: MobileNetV2SSDLite = network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval()
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        kept = [p for p in self.network.parameters() if p.ndim <= 1]  # biases and batch norms
        groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": kept, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.max_lr, betas=(0.9, 0.99))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=config.max_lr, total_steps=config.steps, pct_start=0.06
        )

    def train_step(self) -> tuple[float, float]:
        """Take one step; return its classification and localization loss."""
        config = self.config
        batch = draw_batch("train", self.step * config.batch_size, config, self.priors)
        with torch.autocast(torch.device(config.device).type, torch.bfloat16):
            scores, locations = self.network(batch.images)
        classification, localization = detection_loss(scores.float(), locations.float(), batch)
        self.optimizer.zero_grad(set_to_none=True)
        (classification + localization).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self._update_average()
        return classification.item(), localization.item()

    def _update_average(self) -> None:
        decay = min(EMA_DECAY, self.step / (self.step + 10))  # a short history first
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)

    def save_state(self, path: Path) -> None:
        """Write the restart state to a temporary file and rename it, so that a crash keeps the older state."""
        state = {
            "config": (self.config.steps, self.config.batch_size, self.config.seed, self.config.max_lr),
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        beside = path.with_name(path.name + ".new")
        torch.save(state, beside)
        beside.replace(path)

    def load_state(self, path: Path) -> None:
        """Continue from a saved state.

        Raises:
            SystemExit: The state belongs to a run with other steps, batch size, seed or learning rate.
        """
        state = torch.load(path, map_location=self.config.device, weights_only=True)
        config = (self.config.steps, self.config.batch_size, self.config.seed, self.config.max_lr)
        if tuple(state["config"]) != config:
            raise SystemExit(
                f"{path}: trained with (steps, batch size, seed, learning rate) {state['config']}, not {config}.\n"
                "  fix: pass the same options, or remove the file to start over."
            )
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    def finished_network(self) -> MobileNetV2SSDLite:
        """Return the averaged network in float32, rounded to half precision, batch norms measured, in eval mode."""
        network: MobileNetV2SSDLite = copy.deepcopy(self.average)
        _round_to_half(network)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # a plain mean over the batches that follow
        network.train()
        first = self.config.steps * self.config.batch_size  # after the last picture that was trained on
        num_batches = min(BATCH_NORM_BATCHES, self.config.steps)
        with torch.no_grad():
            for index in range(num_batches):
                network(draw_batch("train", first + index * self.config.batch_size, self.config, self.priors).images)
        _round_to_half(network)
        network.eval()
        return network


def _shrink_heads(network: MobileNetV2SSDLite) -> None:
    """Start near "all classes equal, every box at its prior"."""
    for head in (*network.classification_headers, *network.regression_headers):
        last = list(head.modules())[-1]
        last.get_parameter("weight").data.mul_(0.1)


def shrink_normalized_weights(network: torch.nn.Module) -> None:
    """Scale down each convolution before a batch norm, with its statistics, so that it learns faster.

    The function stays as it is; but AdamW's steps have one size for all weights, and beside He's initial values, large
    in depthwise filters above all, they are so small that the first thousand steps hardly change a filter.
    """
    previous: torch.nn.Module | None = None
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and isinstance(previous, torch.nn.Conv2d):
                scale = 0.15 if previous.groups > 1 else 0.4
                previous.weight.mul_(scale)
                if previous.bias is not None:
                    previous.bias.mul_(scale)
                module.get_buffer("running_mean").mul_(scale)
                module.get_buffer("running_var").mul_(scale * scale)
            previous = module


def _round_to_half(network: torch.nn.Module) -> None:
    """Give every floating-point tensor the value that it will have when read from the checkpoint."""
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())


def train(config: TrainConfig, state_path: Path, *, resume: bool, report: Callable[[str], None]) -> Trainer:
    """Train to the last step, saving the state on the way.

    Args:
        config: What to train.
        state_path: Written every ``config.state_every`` steps and at the end.
        resume: Continue from ``state_path`` where it exists.
        report: Called with one line of progress every ten steps.
    """
    trainer = Trainer(config)
    if resume and state_path.exists():
        trainer.load_state(state_path)
        report(f"continuing after step {trainer.step}")
    started, first_step = time.perf_counter(), trainer.step
    losses = []
    while trainer.step < config.steps:
        losses.append(trainer.train_step())
        last = trainer.step == config.steps
        if last or trainer.step % 10 == 0:
            seconds = (time.perf_counter() - started) / (trainer.step - first_step)
            classification, localization = np.mean(losses, axis=0)
            losses.clear()
            report(
                f"step {trainer.step}/{config.steps}  class loss {classification:.3f}  box loss {localization:.3f}  "
                f"{config.batch_size / seconds:.1f} img/s  {(config.steps - trainer.step) * seconds / 60:.1f} min left"
            )
        if last or trainer.step % config.state_every == 0:
            trainer.save_state(state_path)
    return trainer


# --------------------------------------------------------------------------- result


def mean_average_precision(network: torch.nn.Module, split: Split, num_images: int, config: TrainConfig) -> float:
    """Score the first pictures of a split, as drawn: mAP in ``[0, 1]`` under ``voc07_11pt/pytorch-ssd``."""
    metric = DetectionMetric(CLASS_NAMES)
    for index in range(num_images):
        picture = draw_image(split, index, seed=config.seed)
        height, width = picture.image.shape[:2]
        with torch.inference_mode():
            outputs = network(torch.from_numpy(preprocess(picture.image)[None]).to(config.device))
        detections = decode(tuple(output.cpu() for output in outputs), [ImageSize(width, height)])
        target = DetectionTarget(boxes=picture.boxes, labels=picture.labels, difficult=picture.difficult)
        metric.update([str(index)], detections, [target])
    score = metric.compute()["voc07_11pt/pytorch-ssd"].headline
    return float("nan") if score is None else score


def write_checkpoint(network: MobileNetV2SSDLite, path: Path, facts: dict[str, str | int | float]) -> str:
    """Write the network's state in half precision; return the file's SHA-256.

    Args:
        network: Its values must be half-precision numbers already.
        path: Replaced as a whole.
        facts: Stored as one JSON text under the metadata key ``training``: safetensors writes several keys in an order
            that changes from run to run.
    """
    tensors = {
        key: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    data = save(tensors, {"training": json.dumps(facts, sort_keys=True)})
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    beside.replace(path)
    return hashlib.sha256(data).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write the checkpoint; the state lies beside it, with the suffix ``.state``."""
    options = _parse(arguments)
    config = TrainConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device,
        init=options.init,
        state_every=options.state_every,
    )
    out: Path = options.out
    state_path = out.with_suffix(".state")
    if state_path.exists() and not options.resume:
        raise SystemExit(f"{state_path} exists.\n  fix: pass --resume to continue it, or remove it to start over.")
    out.parent.mkdir(parents=True, exist_ok=True)
    network = train(config, state_path, resume=options.resume, report=_report).finished_network()
    facts: dict[str, str | int | float] = {
        "classes": ",".join(CLASS_NAMES),
        "drawing_version": DRAWING_VERSION,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "seed": config.seed,
    }
    if config.init is not None:
        facts["init"] = config.init.name
    if options.val_images:
        value = mean_average_precision(network, "trainval", options.val_images, config)
        facts |= {"val_images": options.val_images, "val_map": round(value, 4)}
        _report(f"mAP on {options.val_images} pictures of trainval: {value:.4f}")
    digest = write_checkpoint(network, out, facts)
    _report(f"{out}: {out.stat().st_size} bytes, sha256 {digest}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=12, help="pictures a step")
    parser.add_argument("--seed", type=int, default=2007, help="of pictures and initial weights")
    parser.add_argument("--out", type=Path, default=Path("shapes.safetensors"), help="the checkpoint")
    parser.add_argument("--resume", action="store_true", help="continue from the state beside --out")
    parser.add_argument("--init", type=Path, help="state of an earlier run, to begin with its weights")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--state-every", type=int, default=50, help="steps between two saved states")
    parser.add_argument("--val-images", type=int, default=200, help="pictures of the last line's mAP; 0 for none")
    return parser.parse_args(arguments)


def _report(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
