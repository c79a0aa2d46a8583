"""Compares the fast rounding engine with AIMET's AdaRound, layer by layer: ``python -m benchmarks.adaround``.

Both round the same layer on the same inputs and grid, and are scored on these inputs and on images that neither used.
AIMET runs its own per-layer optimizer (``AdaroundOptimizer``), not its loop over the network, which would run the
network again for every layer. Inputs are one small window per image, so that AIMET's steps take milliseconds. Results
are written after every layer, with the inputs beside them; a second call resumes where the first stopped. Reads the
drawn set and the stand-in weights from the folder ZOO_EVAL_SHARED.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import resource
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ssd_mobilenetv2_lite.network import build_network
from zoo_core.datasets.voc import VocDetection
from zoo_core.quantization.rounding.engine import Choices, WeightGrid, choose, round_network
from zoo_core.quantization.rounding.moments import ReconstructionError
from zoo_core.recipes import shipped_configs

LAYERS = (
    "extras.3.conv.6",
    "classification_headers.5",
    "base_net.1.conv.3",
    "regression_headers.3.3",
    "extras.1.conv.6",
    "base_net.3.conv.6",
    "base_net.1.conv.0",
    "base_net.0.0",
    "base_net.4.conv.3",
    "base_net.2.conv.0",
    "base_net.5.conv.6",
    "base_net.8.conv.6",
    "base_net.8.conv.3",
    "regression_headers.0.3",
    "base_net.16.conv.3",
    "base_net.9.conv.0",
    "base_net.15.conv.6",
    "classification_headers.0.3",
    "base_net.15.conv.0",
    "extras.0.conv.0",
    "base_net.18.0",
)
"""Every kind and depth, cheap ones first: 3x3, depthwise, expansion, projection, extra layers and heads."""

_WINDOW = 6
"""Outputs per side of each image: 36 positions, or 1152 in AIMET's batch of 32 images."""
_IMAGES_FOR_EARLIER_LAYERS = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerData:
    """A layer and its inputs.

    Attributes:
        layer: With its float weights.
        activation: The ReLU6 behind it, or None.
        seen: Its inputs in the float and in the rounded network, ``(N, C, h, w)`` each; both engines use them.
        unseen: The same for images that neither engine uses.
    """

    layer: nn.Conv2d
    activation: nn.Module | None
    seen: tuple[torch.Tensor, torch.Tensor]
    unseen: tuple[torch.Tensor, torch.Tensor]


class _Images:
    """Calibration batches held in memory."""

    def __init__(self, images: torch.Tensor) -> None:
        self._batches = torch.split(images, 8)
        self.num_images = len(images)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class Batches:
    """A layer's inputs as AIMET's cached data set gives them: arguments and keyword arguments of a batch of 32."""

    def __init__(self, x: torch.Tensor) -> None:
        self._batches = torch.split(x, 32)

    def __getitem__(self, index: int) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
        return (self._batches[index],), {}

    def __len__(self) -> int:
        return len(self._batches)


def folded_network(checkpoint: Path) -> nn.Module:
    """Build the stand-in network with batch norms folded into the convolutions before them."""
    network = build_network()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    return fold(network)


def fold(network: nn.Module) -> nn.Module:
    """Fold the batch norms of a network into the convolutions before them, in place."""
    convolution: Any = None
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, nn.BatchNorm2d):
            norm: tuple[Any, ...] = (module.running_mean, module.running_var, module.eps, module.weight, module.bias)
            convolution.weight, convolution.bias = fuse_conv_bn_weights(convolution.weight, convolution.bias, *norm)
            network.set_submodule(name, nn.Identity())
    return network.requires_grad_(False).eval()


def drawn_images(archive: Path, num_images: int) -> torch.Tensor:
    """Read the first trainval images, preprocessed, ``(N, 3, 300, 300)``."""
    from ssd_mobilenetv2_lite.preprocess import preprocess

    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        root = next(Path(folder).rglob("VOC2007"))
        dataset = VocDetection(root, "trainval", label_file=root / "labels.txt")
        images = [preprocess(dataset.image(image_id)) for image_id in dataset.ids[:num_images]]
    return torch.from_numpy(np.stack(images))


def aimet_grid(layer: nn.Conv2d, window: torch.Tensor, bw: int, config: Path) -> tuple[Any, WeightGrid]:
    """Return AIMET's quantsim of this one layer, without activation quantizers, and the grid that it chose."""
    from aimet_torch.adaround.adaround_weight import Adaround
    from aimet_torch.common.defs import QuantScheme

    model = nn.Sequential(copy.deepcopy(layer)).eval()
    scheme = QuantScheme.post_training_tf_enhanced
    sim = Adaround._get_quantsim(model, window[:1], scheme, bw, str(config))
    Adaround._compute_param_encodings(sim)
    quantizer: Any = sim.model[0].param_quantizers["weight"]
    scale, offset = quantizer.get_scale().detach().reshape(-1), quantizer.get_offset().detach().reshape(-1)
    return sim, WeightGrid(scale=scale, offset=offset, bw=bw)


def aimet_weight(data: LayerData, sim: Any, iterations: int, *, with_activation: bool) -> torch.Tensor:
    """Round with AIMET's optimizer at its default hyperparameters, then round its result hard."""
    from aimet_torch._base.adaround.adaround_loss import AdaroundHyperParameters
    from aimet_torch.adaround.adaround_optimizer import AdaroundOptimizer
    from aimet_torch.adaround.adaround_weight import Adaround

    torch.manual_seed(0)
    sim = copy.deepcopy(sim)
    model = nn.Sequential(copy.deepcopy(data.layer)).eval()
    exact, rounded = (Batches(x) for x in data.seen)
    with torch.enable_grad(), Adaround._replace_quantization_layer(sim.model, "0") as wrapper:
        AdaroundOptimizer.adaround_module(
            model[0],
            wrapper,
            model,
            sim.model,
            data.activation if with_activation else None,
            exact,
            lambda net, *args, **_kwargs: net(*args),
            AdaroundHyperParameters(iterations, 0.01, (20, 2), 0.2),
            rounded,
        )
        wrapper.use_soft_rounding = False
        weight: torch.Tensor = wrapper.apply_adaround(wrapper.weight).detach()
        return weight


def fast_weight(data: LayerData, grid: WeightGrid, choices: Choices) -> torch.Tensor:
    """Round with the fast engine, on every position of the same inputs."""
    error = ReconstructionError(data.layer)
    for exact, rounded in zip(*(torch.split(x, 32) for x in data.seen), strict=True):
        error.add(exact, rounded)
    integers, _ = choose(error, grid, choices)
    return (integers.float() * grid.scale.reshape(-1, 1, 1)[: len(integers)]).reshape(data.layer.weight.shape)


def unrounded_weight(data: LayerData) -> torch.Tensor:
    """Return the real-valued weights with the least error on the used inputs: a lower bound for any rounding."""
    error = ReconstructionError(data.layer)
    error.add(*data.seen)
    change: torch.Tensor = torch.linalg.lstsq(error.moment, error.linear.mT, driver="gelsd").solution.mT
    best = error.weight + change.float()
    return best.reshape(data.layer.weight.shape)


def errors(data: LayerData, weight: torch.Tensor) -> dict[str, float]:
    """Return the squared output error over the float output's sum of squares, before and after the activation."""
    rounded_layer = copy.deepcopy(data.layer)
    rounded_layer.weight.data.copy_(weight)
    result = {}
    for part, (exact, rounded) in (("seen", data.seen), ("unseen", data.unseen)):
        wanted, given = data.layer(exact).double(), rounded_layer(rounded).double()
        result[part] = float((wanted - given).square().sum() / wanted.square().sum())
        if data.activation is not None:
            wanted, given = data.activation(wanted), data.activation(given)
            result[f"{part}_after_activation"] = float((wanted - given).square().sum() / wanted.square().sum())
    return result


@torch.no_grad()
def capture(
    network: nn.Module, images: torch.Tensor, names: Sequence[str], bw: int
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Each layer's inputs, float and rounded, of the first half of the images; then those of the other half."""
    half = len(images) // 2
    grids = _min_max_grids(network, bw)
    rounded = round_network(network, _Images(images[:_IMAGES_FOR_EARLIER_LAYERS]), grids).network
    seen = _windows(network, rounded, images[:half], names)
    unseen = _windows(network, rounded, images[half:], names)
    return {name: (*seen[name], *unseen[name]) for name in names}


def _layer_data(network: nn.Module, inputs: dict[str, tuple[torch.Tensor, ...]]) -> dict[str, LayerData]:
    followed = _followed_by_relu6(network)
    return {
        name: LayerData(
            layer=network.get_submodule(name),  # type: ignore[arg-type]
            activation=nn.ReLU6() if name in followed else None,
            seen=(exact, rounded),
            unseen=(other_exact, other_rounded),
        )
        for name, (exact, rounded, other_exact, other_rounded) in inputs.items()
    }


def _min_max_grids(network: nn.Module, bw: int) -> dict[str, WeightGrid]:
    grids = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            low, high = min(0.0, float(module.weight.min())), max(0.0, float(module.weight.max()))
            scale = torch.tensor([(high - low) / (2**bw - 1)])
            grids[name] = WeightGrid(scale=scale, offset=(low / scale).round(), bw=bw)
    return grids


def _followed_by_relu6(network: nn.Module) -> set[str]:
    modules = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.ReLU6)]
    pairs = itertools.pairwise(modules)
    return {name for (name, layer), (_, after) in pairs if isinstance(layer, nn.Conv2d) and isinstance(after, nn.ReLU6)}


def _windows(
    network: nn.Module, rounded: nn.Module, images: torch.Tensor, names: Sequence[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    kept: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {name: ([], []) for name in names}
    hooks = []
    for index, model in enumerate((network, rounded)):
        for name in names:
            keep = kept[name][index]
            hooks.append(
                model.get_submodule(name).register_forward_pre_hook(
                    lambda layer, x, keep=keep: keep.append(window(layer, x[0], len(keep)))
                )
            )
    for image in torch.split(images, 1):
        network(image)
        rounded(image)
    for hook in hooks:
        hook.remove()
    return {name: (torch.cat(exact), torch.cat(other)) for name, (exact, other) in kept.items()}


def window(layer: nn.Module, x: torch.Tensor, index: int) -> torch.Tensor:
    """Cut a window of the input at a place drawn by the image's index."""
    stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
    size = _WINDOW * stride
    rng = np.random.default_rng(index)
    top, left = (int(rng.integers(0, max(1, n - size + 1))) for n in x.shape[-2:])
    return x[:, :, top : top + size, left : left + size].clone()


def _timed(results: dict[str, Any], key: str, data: LayerData, make: Any) -> None:
    started = time.process_time(), time.perf_counter()
    weight = make()
    cpu_s, wall_s = time.process_time() - started[0], time.perf_counter() - started[1]
    results[key] = {**errors(data, weight), "cpu_s": cpu_s, "wall_s": wall_s}


def run_layer(
    data: LayerData, bw: int, iterations: int, config: Path, known: dict[str, Any], *, behind_activation: bool
) -> dict[str, Any]:
    """Run every engine on one layer; AIMET results in ``known`` for this number of iterations are reused."""
    sim, grid = aimet_grid(data.layer, data.seen[0], bw, config)
    scale, offset = grid.scale, grid.offset
    integers = (data.layer.weight / scale).round().clamp(offset, offset + 2**bw - 1)
    with torch.no_grad():
        results: dict[str, Any] = {
            "nearest": errors(data, integers * scale),
            "unrounded": errors(data, unrounded_weight(data)),
        }
        for choices in ("floor_ceil", "free"):
            _timed(results, choices, data, lambda choices=choices: fast_weight(data, grid, choices))
    for with_activation in (False, True) if data.activation is not None and behind_activation else (False,):
        key = f"aimet_{iterations}" + ("_with_activation" if with_activation else "")
        if key in known:
            results[key] = known[key]
        elif iterations:
            _timed(
                results, key, data, lambda on=with_activation: aimet_weight(data, sim, iterations, with_activation=on)
            )
    return results


def report(table: dict[str, Any], iterations: int) -> None:
    """Print each layer's errors over AIMET's, and the medians of the layers done.

    "Above least" compares what exceeds the error of the best unrounded weights: part of a layer's error comes from the
    layers before it, and no rounding removes that.
    """
    columns: dict[str, list[float]] = {}
    for name, row in table.items():
        ratios = dict(_ratios(row, iterations))
        print(f"{name:28s} " + "  ".join(f"{key} {value:.3f}" for key, value in ratios.items() if "nearest" not in key))
        for key, value in ratios.items():
            columns.setdefault(key, []).append(value)
    if len(table) > 1:
        for key, values in columns.items():
            spread = f"least {min(values):.3f}  worst {max(values):.3f}"
            print(f"{key:40s} median {statistics.median(values):.3f}  {spread}  layers {len(values)}")


def _ratios(row: dict[str, Any], iterations: int) -> Iterator[tuple[str, float]]:
    aimet = row.get(f"aimet_{iterations}")
    if aimet is None:
        return
    after = row.get(f"aimet_{iterations}_with_activation")
    for choices in ("nearest", "floor_ceil", "free"):
        for part in ("seen", "unseen"):
            yield f"{choices} {part}", row[choices][part] / aimet[part]
            if after is not None:
                key = f"{part}_after_activation"
                yield f"{choices} {part} after ReLU6", row[choices][key] / after[key]
        least = row["unrounded"]["seen"]
        yield f"{choices} above least", (row[choices]["seen"] - least) / (aimet["seen"] - least)
    yield "times faster (core time)", aimet["cpu_s"] / row["floor_ceil"]["cpu_s"]


def time_network(
    network: nn.Module, images: torch.Tensor, bw: int, choices_to_time: Sequence[Choices]
) -> dict[str, dict[str, float]]:
    """Round every layer, including capture, and print time and memory; the peak is that of the process so far."""
    figures: dict[str, dict[str, float]] = {}
    for choices in choices_to_time:
        started = time.process_time(), time.perf_counter()
        layers = round_network(network, _Images(images), _min_max_grids(network, bw), choices=choices).layers
        cpu_s, wall_s = time.process_time() - started[0], time.perf_counter() - started[1]
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        ratio = statistics.median(layer.error / layer.error_nearest for layer in layers)
        print(
            f"{choices}: {len(layers)} layers, {len(images)} images, {torch.get_num_threads()} threads: {wall_s:.1f} s "
            f"({cpu_s:.1f} s of core time), peak {gib:.1f} GiB, error over nearest's {ratio:.3f} (median layer)"
        )
        figures[choices] = {"images": len(images), "wall_s": wall_s, "cpu_s": cpu_s, "peak_gib": gib, "error": ratio}
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--layers", type=int, default=len(LAYERS), help="how many of the chosen layers, cheap ones first"
    )
    parser.add_argument("--only", nargs="+", choices=LAYERS, metavar="LAYER", help="these layers instead")
    parser.add_argument("--iterations", type=int, default=10_000, help="of AIMET; 0 leaves it out")
    parser.add_argument("--bw", type=int, default=8, help="bits of a weight")
    parser.add_argument("--images", type=int, default=128, help="images seen; as many unseen score")
    parser.add_argument("--network", type=int, metavar="IMAGES", help="only time the whole network on so many images")
    parser.add_argument("--choices", nargs="+", choices=("floor_ceil", "free"), default=("floor_ceil", "free"))
    parser.add_argument(
        "--activation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let AIMET optimize behind the ReLU6 as well",
    )
    parser.add_argument("--out", type=Path, default=Path("adaround.json"), help="results so far; read and extended")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args(arguments)
    if not os.environ.get("ZOO_EVAL_SHARED"):
        parser.error("ZOO_EVAL_SHARED must name the folder with the reference data")
    data_dir = Path(os.environ["ZOO_EVAL_SHARED"]) / "data"
    config = shipped_configs()["per_tensor_asymmetric"]
    network = folded_network(data_dir / "shapes_mb2_ssd_lite.pth")
    if args.network:
        images = drawn_images(data_dir / "shapes_voc.tar", args.network)
        # The drawn set has 300 images; for timing, some may come twice.
        repeated = images.repeat(-(-args.network // len(images)), 1, 1, 1)[: args.network]
        figures = time_network(network, repeated, args.bw, args.choices)
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1))
        return 0
    images = drawn_images(data_dir / "shapes_voc.tar", 2 * args.images)
    names = args.only or LAYERS[: args.layers]
    kept = args.out.with_suffix(".pt")  # AIMET's results of an earlier call are valid only for that call's inputs
    if not kept.exists():
        torch.save(capture(network, images, LAYERS, args.bw), kept)
    layers = _layer_data(network, torch.load(kept, weights_only=True))
    table: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in names:
        known = table.get(name, {})
        table[name] = run_layer(
            layers[name], args.bw, args.iterations, config, known, behind_activation=args.activation
        )
        args.out.write_text(json.dumps(table, indent=1))
        report({name: table[name]}, args.iterations)
    report(table, args.iterations)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
