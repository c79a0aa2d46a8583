"""Exports the quantized network of a run, and compares the file with the simulation layer by layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import RunError, ZooError
from zoo_core.files import replace_file
from zoo_core.runs.hashes import QUANTIZED

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from zoo_core.datatypes import ModelBundle, ModelEntry
    from zoo_core.plugins import PluginHost
    from zoo_core.quantization.export import Format
    from zoo_core.quantization.export.graph import GraphSummary
    from zoo_core.quantization.integers import IntegerNetwork
    from zoo_core.results.stored import StoredRun
    from zoo_core.runtimes.parity import LayerParity

_INPUT = "input"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """Exported files.

    Attributes:
        run: The run whose network was exported.
        model: The ONNX file.
        encodings: The file of encodings; None for ``onnx-qdq``, whose graph contains them.
        model_bytes: Size of the ONNX file.
        summary: What the Q/DQ graph contains; None for the other formats.
        layers: Comparison with the simulation, one entry per quantized activation; empty for the other formats.
        compared_on: What the layers were compared on: the first evaluated image, or noise if the data are not here.
    """

    run: Path
    model: Path
    encodings: Path | None
    model_bytes: int
    summary: GraphSummary | None
    layers: Sequence[LayerParity]
    compared_on: str


def export_run(
    run: StoredRun,
    out: Path,
    host: PluginHost,
    *,
    kind: Format = "onnx-qdq",
    batch_size: int | None = 1,
    int32_bias: bool = False,
    integer_clips: bool = False,
    data: Path | None = None,
) -> Exported:
    """Export the optimized quantized network of a run.

    Args:
        run: With a ``quantized`` folder that has encodings of activations.
        out: Folder for the files; must be new or empty.
        host: The plugins.
        kind: Format of the files.
        batch_size: Images per pass; None for any number.
        int32_bias: Store biases as int32; only for ``onnx-qdq``.
        integer_clips: Let clips per channel behind a layer read its integers; only for ``onnx-qdq``.
        data: Root of the dataset, for the image on which the layers are compared; None for the run's.

    Raises:
        ZooError: The run has no such network, its model's plugin is missing, or the network cannot be exported.
    """
    from zoo_core.quantization.export import export_encodings, export_qdq

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not empty.", fix="name another folder with --out.")
    run.require_unchanged(QUANTIZED)
    bundle, integers = _integer_network(run, host)
    if kind != "onnx-qdq":
        version: Any = kind.removeprefix("encodings-")
        pair = export_encodings(integers, bundle.example_input, version, batch_size=batch_size)
        model = _write(out / "model.onnx", pair.model)
        text = json.dumps(pair.encodings, indent=1) + "\n"
        encodings = _write(out / "model.encodings", text.encode())
        return Exported(
            run=run.path,
            model=model,
            encodings=encodings,
            model_bytes=len(pair.model),
            summary=None,
            layers=(),
            compared_on="",
        )
    graph = export_qdq(
        integers, bundle.example_input, batch_size=batch_size, int32_bias=int32_bias, integer_clips=integer_clips
    )
    x, what = _image(run, bundle, host, data)
    layers = _layers(graph.model, integers, x.expand(batch_size or 1, *x.shape[1:]))
    return Exported(
        run=run.path,
        model=_write(out / "model.onnx", graph.model),
        encodings=None,
        model_bytes=len(graph.model),
        summary=graph.summary,
        layers=layers,
        compared_on=what,
    )


def _integer_network(run: StoredRun, host: PluginHost) -> tuple[ModelBundle, IntegerNetwork]:
    from zoo_core.quantization.saved import load_integers

    record = run.record
    entry = host.recorded_model(record.model, record.registry)
    ordinary = host.load_model(entry, None, record.dataset.class_names, "cpu")
    return load_integers(run.path / QUANTIZED, ordinary, _loaded(run, ordinary, entry, host))


def _loaded(run: StoredRun, ordinary: ModelBundle, entry: ModelEntry, host: PluginHost) -> ModelBundle | None:
    """Return the network of a run's ``--optimized-checkpoint``; None for a run without one."""
    from zoo_core.artifacts import local_checkpoint
    from zoo_core.quantization.saved import is_saved_network, load_saved

    recorded = run.record.optimized_checkpoint
    if recorded is None:
        return None
    checkpoint = local_checkpoint(Path(recorded.path), optimized=True)
    if is_saved_network(checkpoint.path):
        return load_saved(ordinary, checkpoint.path)
    return host.load_model(entry, checkpoint, run.record.dataset.class_names, "cpu")


def _image(run: StoredRun, bundle: ModelBundle, host: PluginHost, data: Path | None) -> tuple[torch.Tensor, str]:
    """Return the first evaluated image as the network's input, or noise where the data are not here."""
    import torch

    if run.image_ids:
        try:
            entry = host.recorded_model(run.record.model, run.record.registry)
            image = run.open_dataset(entry, host, data=data).image(run.image_ids[0])
            return torch.from_numpy(bundle.preprocess(image))[None], f"image {run.image_ids[0]}"
        except ZooError:
            if data is not None:
                raise
    generator = torch.Generator().manual_seed(0)
    return torch.randn(bundle.example_input.shape, generator=generator), "noise"


def _layers(model: bytes, integers: IntegerNetwork, x: torch.Tensor) -> Sequence[LayerParity]:
    from zoo_core.runtimes.onnxruntime import OnnxSession
    from zoo_core.runtimes.parity import compare_layers, cut_at_quantizers

    session = OnnxSession(cut_at_quantizers(model), optimize=False)
    images: NDArray[np.float32] = x.numpy()
    return compare_layers(session, images, integers.integers(x), input_name=_INPUT)


def _write(path: Path, content: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}", fix="name another folder with --out."
        ) from error
    return path
