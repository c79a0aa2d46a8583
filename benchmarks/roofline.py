"""Compares the network's speed with the machine's limits: ``python -m benchmarks.roofline``.

Counts each convolution's floating point operations (two per multiply-add) and the bytes that it must move at least
(input, weights, output, once each, float32), measures what one core of this machine can do at best (a large matrix
product, a copy of an array that no cache holds), and so estimates the least time of the network: for each layer the
longer of operations over peak and bytes over bandwidth. Activations that stay in a cache between two layers move faster
than that, so a layer may lie above the roof. Also measures one image on one core, in torch and in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.inference import Sides, fp32
from benchmarks.scenes import scene
from benchmarks.timing import Spread, conditions, timed

_MATRIX = 2048
_COPIED_BYTES = 256 << 20
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Minimum work of a convolution.

    Attributes:
        name: Name of the module.
        flops: Floating point operations for one image.
        num_bytes: Input, weights and output, once each.
        milliseconds: Of one core, measured in torch with hooks around the layer.
    """

    name: str
    flops: int
    num_bytes: int
    milliseconds: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.num_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Peak performance of one core.

    Attributes:
        flops_per_second: Of a matrix product in float32.
        bytes_per_second: Read and written by a copy.
    """

    flops_per_second: float
    bytes_per_second: float

    def bound_ms(self, layer: Layer) -> float:
        """The least time of a layer on this core."""
        return 1e3 * max(layer.flops / self.flops_per_second, layer.num_bytes / self.bytes_per_second)


def measure_machine(repeats: int) -> Machine:
    """Return the best of several repeats, in the calling thread only."""
    a, b = torch.rand(_MATRIX, _MATRIX), torch.rand(_MATRIX, _MATRIX)
    product = torch.empty(_MATRIX, _MATRIX)
    source = torch.rand(_COPIED_BYTES // _FLOAT_BYTES)
    target = torch.empty_like(source)
    multiply = min(timed(lambda: torch.mm(a, b, out=product)) for _ in range(repeats + 1))
    copied = min(timed(lambda: target.copy_(source)) for _ in range(repeats + 1))
    return Machine(flops_per_second=2 * _MATRIX**3 / multiply, bytes_per_second=2 * _COPIED_BYTES / copied)


def measure_layers(network: nn.Module, x: torch.Tensor, repeats: int) -> list[Layer]:
    """Measure every convolution of ``network`` for one image, in the order run; the least time of several repeats."""
    seconds: dict[str, list[float]] = {}
    work: dict[str, tuple[int, int]] = {}
    begun: dict[str, float] = {}
    handles = []
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue

        def before(_module: nn.Module, _args: Any, name: str = name) -> None:
            begun[name] = time.perf_counter()

        def after(module: nn.Module, args: Any, output: torch.Tensor, name: str = name) -> None:
            seconds.setdefault(name, []).append(time.perf_counter() - begun[name])
            weight = module.get_parameter("weight")
            flops = 2 * output.numel() * weight[0].numel()
            work[name] = flops, _FLOAT_BYTES * (args[0].numel() + weight.numel() + output.numel())

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    with torch.inference_mode():
        for _ in range(repeats + 2):
            network(x)
    for handle in handles:
        handle.remove()
    return [
        Layer(name=name, flops=flops, num_bytes=num_bytes, milliseconds=1e3 * min(seconds[name]))
        for name, (flops, num_bytes) in work.items()
    ]


def measure_networks(sides: Sides, x: torch.Tensor, repeats: int) -> dict[str, Spread]:
    """Measure milliseconds of one core for one image, by backend."""
    found = {}
    for backend, network in sides.own.items():
        runs = network.to(memory_format=torch.channels_last)
        work = partial(runs, x)
        with torch.inference_mode():
            work()
            found[backend] = Spread(values=tuple(1e3 * timed(work) for _ in range(repeats)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the machine's peak, the network's work, and the bound with the measured times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with scene(None, None, num_images=1) as base:
            x = base.bundle.example_input.to(memory_format=torch.channels_last)
            sides = fp32(base)
            machine = measure_machine(options.repeats)
            networks = measure_networks(sides, x, options.repeats)
            layers = measure_layers(sides.own["torch"], x, options.repeats)
    finally:
        torch.set_num_threads(num_threads)
    flops, num_bytes = sum(layer.flops for layer in layers), sum(layer.num_bytes for layer in layers)
    bound = sum(map(machine.bound_ms, layers))
    compute = 1e3 * flops / machine.flops_per_second
    print(f"  one core: {machine.flops_per_second / 1e9:.1f} GFLOP/s, {machine.bytes_per_second / 1e9:.1f} GB/s")
    print(f"  {len(layers)} convolutions: {flops / 1e9:.3f} GFLOP, {num_bytes / 1e6:.1f} MB an image")
    print(f"  bound {bound:.2f} ms an image ({compute:.2f} ms of it if bytes cost nothing)")
    for backend, spread in networks.items():
        print(f"  {backend:12s} {spread} ms, {spread.median / bound:.2f} times the bound")
    if options.json:
        figures = {
            "conditions": conditions(),
            "machine": asdict(machine),
            "layers": [asdict(layer) | {"bound_ms": machine.bound_ms(layer)} for layer in layers],
            "flops": flops,
            "bytes": num_bytes,
            "bound_milliseconds": bound,
            "milliseconds": {backend: spread.as_json() for backend, spread in networks.items()},
        }
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
