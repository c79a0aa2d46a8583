"""Times exported networks side by side on runtimes: ``python -m benchmarks.deploy [--json FILE]``.

For each recipe, one calibrated simulation is exported twice, by zoo-eval and by AIMET, and ONNX Runtime's own quantizer
gets the same float network, bit widths and kind of weights. All files, and the original network in float, then run in
one process per runtime, batch 1, one thread, their passes alternating, so that a busy moment of the machine affects all
of them. Times are those of the core, in random order, and of the clock, in turn; on a busy machine only the former mean
much. AdaRound is left out of the recipes: it moves integers of weights, and changes no graph.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import ssd_mobilenetv2_lite
from benchmarks.scenes import Scene, scene
from benchmarks.timing import Spread, conditions, in_turn, ratios, timed
from zoo_core.datasets.voc import VocDetection
from zoo_core.datatypes import LoadOptions, QuantNetwork, StepContext
from zoo_core.inference import CalibrationSet, InferenceSettings, load_inputs
from zoo_core.onnx_export import INPUT, export_onnx, output_names
from zoo_core.quantization import pipeline
from zoo_core.quantization.aimet import quantsim
from zoo_core.quantization.aimet.foreign import prepare
from zoo_core.quantization.export import export_qdq
from zoo_core.quantization.integers import IntegerNetwork
from zoo_core.recipes import load_recipe, override
from zoo_core.runs.request import DEFAULT_WORKERS
from zoo_core.runtimes.integer_coverage import integer_coverage
from zoo_core.runtimes.measuring import NUM_WARM_UP, Cost, measure_alternately
from zoo_core.runtimes.onnxruntime import OnnxRuntime
from zoo_runtime_openvino.runtime import OpenVinoRuntime

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from zoo_core.datatypes import Runtime

FLOAT = "fp32, the original network"
OWN = "zoo-eval"
OWN_INTEGER_CLIPS = "zoo-eval, integer clips"
_RECIPES = Path(ssd_mobilenetv2_lite.__file__).parent / "recipes"
_DEFAULT = "w8a8_tf_enhanced_cle_adaround"
_CALIBRATION_IMAGES = 32
_OPSET = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Recipe whose network is exported.

    Attributes:
        recipe: Name of a shipped one.
        overrides: As ``--set`` takes them.
        per_channel: Weights are symmetric per output channel (int8), not asymmetric per tensor (uint8).
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    per_channel: bool = False


CASES: Mapping[str, Case] = {
    "ReLU6 kept, uint8 weights per tensor": Case(
        recipe=_DEFAULT,
        overrides=("relu6.policy=keep", "cross_layer_equalization.min_layer_sets=2", "quantsim.input=quantized"),
    ),
    "ReLU6 kept, int8 weights per channel": Case(
        recipe="w8a8_relu6_kept_per_channel", overrides=("quantsim.input=quantized",), per_channel=True
    ),
    "clip per channel, uint8 weights per tensor": Case(recipe=_DEFAULT, overrides=("quantsim.input=quantized",)),
    "clip per channel, int8 weights per channel": Case(recipe="w8a8_per_channel_symmetric", per_channel=True),
}


def exported(case: Case, base: Scene, folder: Path) -> Mapping[str, Path]:
    """Write the models of one recipe and return their files by exporter."""
    plan = pipeline.plan(override(load_recipe(_RECIPES / f"{case.recipe}.yaml"), case.overrides))
    images = _calibration_set(base)
    context = StepContext(
        example_input=base.bundle.example_input,
        calibration=images,
        quant=plan.quant,
        seed=0,
        work_dir=folder,
        progress=lambda _done, _total, _what: None,
    )
    unrounded = replace(plan, steps=tuple(bound for bound in plan.steps if bound.step.name != "adaround"))
    *_, last = pipeline.walk(unrounded, QuantNetwork(network=base.bundle.network), lambda: context)
    network, x = prepare(last.network.network, context.example_input), context.example_input
    sim = quantsim.build(network, x, plan.quant)
    quantsim.calibrate(sim, context)
    activations, params = quantsim.encodings_of(sim)
    encodings = {"activation_encodings": activations, "param_encodings": params}
    integers = IntegerNetwork.from_encodings(network, encodings)
    models = {
        FLOAT: _float(base.bundle.network, x),
        OWN: export_qdq(integers, x).model,
        OWN_INTEGER_CLIPS: export_qdq(integers, x, integer_clips=True).model,
        "AIMET": _by_aimet(sim, network, x, folder),
        "AIMET, prequantize_constants": _by_aimet(sim, network, x, folder, prequantize_constants=True),
        "onnxruntime.quantization": _by_onnxruntime(_float(network, x), images, case, folder),
    }
    if models[OWN_INTEGER_CLIPS] == models[OWN]:
        del models[OWN_INTEGER_CLIPS]
    files = {name: folder / f"{index}.onnx" for index, name in enumerate(models)}
    for name, file in files.items():
        file.write_bytes(models[name])
    return files


def _calibration_set(base: Scene) -> CalibrationSet:
    settings = InferenceSettings(batch_size=8, workers=DEFAULT_WORKERS, device="cpu")
    trainval = VocDetection(base.dataset.root, "trainval", label_file=base.dataset.root / "labels.txt")
    return CalibrationSet(
        trainval, trainval.ids[:_CALIBRATION_IMAGES], base.bundle.preprocess, settings, lambda _num: None
    )


def _float(network: nn.Module, x: torch.Tensor) -> bytes:
    return export_onnx(network, x, opset=_OPSET, dynamic_batch=False, fix="use a network that torch can export.")


def _by_aimet(sim: Any, network: nn.Module, x: torch.Tensor, folder: Path, **options: Any) -> bytes:
    """Return AIMET's own graph of Q/DQ pairs of a simulation."""
    import aimet_torch.onnx

    file = folder / "aimet.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its tracing warns about every constant shape
        aimet_torch.onnx.export(
            sim.model,
            (x,),
            str(file),
            input_names=[INPUT],
            output_names=output_names(network(x)),
            opset_version=_OPSET,
            dynamo=False,
            **options,
        )
    return file.read_bytes()


def _by_onnxruntime(model: bytes, images: CalibrationSet, case: Case, folder: Path) -> bytes:
    """Return ONNX Runtime's own quantization of a float network, after the preparation that its documentation asks."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no annotations
        def __init__(self) -> None:
            self._batches: Iterator[NDArray[np.float32]] = (image[None].numpy() for batch in images for image in batch)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._batches, None)
            return None if image is None else {INPUT: image}

    source, prepared, target = (folder / f"{name}.onnx" for name in ("float", "prepared", "quantized"))
    source.write_bytes(model)
    quant_pre_process(str(source), str(prepared))
    quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8 if case.per_channel else QuantType.QUInt8,
        per_channel=case.per_channel,
    )
    return target.read_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model on one runtime.

    Attributes:
        core_ms: Time of the core by pass.
        cost: Time by the clock, in a process that does nothing else.
        num_bytes: Of the file.
        integer_share: Of the products; None for a network without products.
    """

    core_ms: Spread
    cost: Cost
    num_bytes: int
    integer_share: float | None


def measured(runtime: Runtime, files: Mapping[str, Path], x: NDArray[np.float32], num_passes: int) -> Mapping[str, Row]:
    """Measure models whose passes alternate."""
    costs = measure_alternately(runtime, list(files.values()), {INPUT: x}, num_passes=num_passes)
    models = {name: file.read_bytes() for name, file in files.items()}
    sessions = {name: runtime.load(model, LoadOptions()) for name, model in models.items()}
    passes = {name: partial(session, {INPUT: x}) for name, session in sessions.items()}
    in_turn(passes, NUM_WARM_UP)
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    order = np.random.default_rng(0)
    for _ in range(num_passes):
        for name in order.permutation(list(passes)):  # what ran before has filled the caches
            seconds[name].append(timed(passes[name], time.process_time))
    return {
        name: Row(
            core_ms=Spread(values=tuple(1e3 * one for one in seconds[name])),
            cost=cost,
            num_bytes=len(models[name]),
            integer_share=integer_coverage(models[name], sessions[name].coverage()).share,
        )
        for name, cost in zip(files, costs, strict=True)
    }


def _print(title: str, rows: Mapping[str, Row]) -> None:
    print(f"\n{title}")
    times = "".join(f"{f'{clock} p50 (p90), ms':>21}{'min':>7}" for clock in ("core", "clock"))
    print(f"  {'':<30}{times}{'integer, %':>12}{'MB':>7}{'load, ms':>10}")
    for name, row in rows.items():
        core, cost = row.core_ms.values, row.cost
        p50, p90 = np.percentile(core, [50, 90])
        share = "-" if row.integer_share is None else f"{100 * row.integer_share:.1f}"
        core_text, clock_text = f"{p50:.2f} ({p90:.2f})", f"{cost.p50_ms:.2f} ({cost.p90_ms:.2f})"
        print(
            f"  {name:<30}{core_text:>21}{min(core):>7.2f}{clock_text:>21}{cost.min_ms:>7.2f}{share:>12}"
            f"{row.num_bytes / 1e6:>7.2f}{cost.load_ms:>10.0f}"
        )
    others = {name: row.core_ms for name, row in rows.items() if name not in (OWN, OWN_INTEGER_CLIPS, FLOAT)}
    best = min(others, key=lambda name: others[name].median)
    ratio = ratios(rows[OWN].core_ms.values, others[best].values)
    least = min(rows[OWN].core_ms.values) / min(others[best].values)
    print(f"  core time of {OWN} over that of {best}: {ratio.median:.2f} (median), {least:.2f} (minimum)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table per recipe and runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=100, help="timed passes of each model")
    parser.add_argument("--only", help="recipes whose title contains this")
    parser.add_argument("--keep", type=Path, help="folder to keep the models in")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    logging.getLogger("zoo_eval").setLevel(logging.ERROR)
    logging.getLogger().setLevel(logging.ERROR)  # ONNX Runtime's quantizer logs to the root
    torch.set_num_threads(1)
    runtimes: list[Runtime] = [OnnxRuntime(), OpenVinoRuntime()]
    figures: dict[str, Any] = {"conditions": conditions()}
    with scene(None, None, 1) as base, tempfile.TemporaryDirectory() as temporary:
        x = np.stack([one for one, _ in load_inputs(base.dataset, base.dataset.ids[:1], base.bundle.preprocess, 0)])
        print(f"{base.what}; batch 1, one thread, {options.passes} passes of each model")
        for index, (title, case) in enumerate(CASES.items()):
            if options.only and options.only not in title:
                continue
            folder = (options.keep or Path(temporary)) / str(index)
            folder.mkdir(parents=True, exist_ok=True)
            files = exported(case, base, folder)
            figures[title] = {}
            for runtime in runtimes:
                available = runtime.availability()
                if available.reason is not None:
                    figures[title][runtime.name] = {"skipped": available.reason}
                    continue
                rows = measured(runtime, files, x, options.passes)
                _print(f"{title}, {runtime.name} {available.version}", rows)
                sys.stdout.flush()
                figures[title][runtime.name] = {name: asdict(row) for name, row in rows.items()}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
