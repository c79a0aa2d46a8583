"""Loads the exported network of a run on runtimes, compares them with the simulation, and measures what they cost."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from zoo_core.datatypes import LoadOptions
from zoo_core.errors import RunError, RuntimeUnsupportedError
from zoo_core.evaluation.float_runtime import OPSET
from zoo_core.evaluation.runtimes import usable_runtimes
from zoo_core.evaluation.sources import runtime_source
from zoo_core.evaluation.stage_runner import StageNetwork
from zoo_core.guards import Naming
from zoo_core.inference import load_inputs
from zoo_core.onnx_export import INPUT, export_onnx
from zoo_core.quantization import saved
from zoo_core.runs.deployment import (
    CostRecord,
    DeploymentRecord,
    ExecutedNodeRecord,
    LatencyRecord,
    LayerParityRecord,
    OutputParityRecord,
    ParityRecord,
)
from zoo_core.runs.hashes import MODEL, QUANTIZED
from zoo_core.runtimes.integer_coverage import integer_coverage
from zoo_core.runtimes.measuring import measure_alternately
from zoo_core.runtimes.parity import measure_parity
from zoo_core.runtimes.probes import probed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

    from zoo_core.datatypes import ModelBundle, Runtime, RuntimeSession
    from zoo_core.evaluation.prepare import Job
    from zoo_core.evaluation.stages import Stage
    from zoo_core.plugins import OwnedRuntime, PluginHost
    from zoo_core.runs.directory import RunDirectory
    from zoo_core.runtimes.measuring import Cost

logger = logging.getLogger("zoo_eval")

PARITY_IMAGES = 4
"""Images on which every layer is compared, the first of the run."""


class RuntimeNetwork(nn.Module):
    """Computes an exported network of batch 1 on a runtime; called like the original network.

    Several threads may call a session at once; a copy is therefore the same object.

    Args:
        session: With the network.
        naming: Names the runtime's plugin in errors of the session.
    """

    def __init__(self, session: RuntimeSession, naming: Naming) -> None:
        super().__init__()
        self._session = session
        self._naming = naming

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs for ``(B, C, H, W)`` float32, batch axis first."""
        with self._naming:
            each = [list(self._session({INPUT: image[None].contiguous().numpy()}).values()) for image in x]
        return tuple(torch.from_numpy(np.concatenate(outputs)) for outputs in zip(*each, strict=True))

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """Exported network on a runtime.

    Attributes:
        own: The network of the stage.
        record: What is known before anything is measured.
        options: With which the runtime loads networks here.
    """

    own: StageNetwork
    record: DeploymentRecord
    options: LoadOptions


class Deployment:
    """Exported network of a run; create one when it is in the run's folder.

    Args:
        job: With runtimes.
        run_dir: Has ``quantized/model.onnx``.
        host: The plugins.
        work_dir: Existing; for temporary files.

    Raises:
        ZooError: The network in the run's folder cannot be loaded.
    """

    def __init__(self, job: Job, run_dir: RunDirectory, host: PluginHost, work_dir: Path) -> None:
        self._job = job
        self._host = host
        self._path = run_dir.path / QUANTIZED / MODEL
        self._model = self._path.read_bytes()
        self._float_path = work_dir / "float.onnx"
        optimized = None if job.optimized_bundle is None else _on_cpu(job.optimized_bundle)
        self._bundle, self._integers = saved.load_integers(run_dir.path / QUANTIZED, _on_cpu(job.bundle), optimized)

    def load(self, stage: Stage) -> Loaded:
        """Load the network on a stage's runtime.

        Raises:
            RuntimeUnsupportedError: The runtime computes wrong integers, cannot execute the network, or only with a
                fallback that the request does not allow.
        """
        owned = self._owned(str(stage.runtime))
        runtime, allow_fallback = owned.runtime, self._job.request.allow_fallback
        with _naming(owned):
            version = runtime.availability().version
            probe = probed(runtime, LoadOptions(allow_fallback=allow_fallback))
            session = runtime.load(self._model, probe.options)
            coverage = integer_coverage(self._model, session.coverage())
        _refuse_fallback(runtime.name, [node.name for node in coverage.nodes if node.elsewhere], allow_fallback)
        record = DeploymentRecord(
            runtime=runtime.name,
            version=version,
            source=runtime_source(self._host, owned),
            emulated=runtime.emulated,
            model_sha256=hashlib.sha256(self._model).hexdigest(),
            model_bytes=len(self._model),
            remedy=probe.remedy,
            allow_fallback=allow_fallback,
            integer_coverage=coverage.share,
            nodes=tuple(
                ExecutedNodeRecord(
                    name=node.name,
                    operation=node.operation,
                    precision=node.precision,
                    device=node.device,
                    elsewhere=node.elsewhere,
                    macs=node.macs,
                    reason=node.reason,
                )
                for node in coverage.nodes
            ),
            parity=None,
            cost=None,
        )
        own = StageNetwork(
            network=RuntimeNetwork(session, _naming(owned)),
            bundle=self._bundle,
            size_bytes=len(self._model),
            digest=hashlib.sha256(json.dumps(asdict(record), sort_keys=True).encode()).hexdigest(),
            device="cpu",
        )
        return Loaded(own=own, record=record, options=probe.options)

    def parity(self, loaded: Loaded) -> ParityRecord:
        """Compare each layer of the network on a runtime with the simulation, on the first images of the run.

        Raises:
            RuntimeUnsupportedError: The runtime cannot execute the graph that is cut at its quantizers.
            DataError: An image cannot be read.
        """
        owned = self._owned(loaded.record.runtime)
        with _naming(owned):
            found = measure_parity(
                owned.runtime,
                self._model,
                self._images(),
                lambda x: self._integers.simulated(torch.from_numpy(x)),
                options=loaded.options,
            )
        return ParityRecord(
            images=self._image_ids,
            layers=tuple(
                LayerParityRecord(
                    name=layer.name,
                    differing=layer.differing,
                    differing_inside=layer.differing_inside,
                    max_lsb=layer.max_lsb,
                )
                for layer in found.layers
            ),
            max_differing=found.differing_threshold,
            max_lsb=found.lsb_threshold,
            first_over_threshold=found.first_over_threshold,
            outputs=tuple(
                OutputParityRecord(name=output.name, sqnr_db=output.sqnr_db, cosine=output.cosine)
                for output in found.outputs
            ),
        )

    def cost(self, loaded: Loaded) -> CostRecord:
        """Measure latency and memory of the network on a runtime, beside those of the float network.

        Raises:
            RuntimeUnsupportedError: The process that measures failed.
        """
        runtime = self._owned(loaded.record.runtime).runtime
        if runtime.emulated:
            return CostRecord(latency=(), peak_rss_bytes=None, float_peak_rss_bytes=None)
        inputs = {INPUT: self._images()[:1]}
        floats = self._float_model()
        try:
            costs = _measured(runtime, [self._path, *floats], inputs, loaded.options)
        except RuntimeUnsupportedError as error:
            if not floats:
                raise
            logger.warning("fp32 is not measured on %s: %s", runtime.name, error.fact)
            costs = _measured(runtime, [self._path], inputs, loaded.options)
        quantized, *others = costs[0]
        return CostRecord(
            latency=tuple(_latency(own) for own in costs),
            peak_rss_bytes=quantized.peak_rss_bytes,
            float_peak_rss_bytes=others[0].peak_rss_bytes if others else None,
        )

    def _owned(self, name: str) -> OwnedRuntime:
        known = self._job.runtimes
        return known[name] if name in known else usable_runtimes(self._host, [name], self._job.plan)[name]

    @property
    def _image_ids(self) -> tuple[str, ...]:
        return tuple(self._job.data.image_ids[:PARITY_IMAGES])

    def _images(self) -> NDArray[np.float32]:
        workers = self._job.settings.workers
        inputs = load_inputs(self._job.data.dataset, self._image_ids, self._bundle.preprocess, workers)
        return np.stack([x for x, _ in inputs])

    def _float_model(self) -> list[Path]:
        """Return the file of the original network for one image; empty if torch cannot export it."""
        if not self._float_path.exists():
            bundle = self._job.bundle
            try:
                model = export_onnx(
                    bundle.network, bundle.example_input, opset=OPSET, dynamic_batch=False, fix="leave out --runtimes."
                )
                self._float_path.write_bytes(model)
            except RunError as error:
                logger.warning("fp32 is not measured on runtimes: %s", error.fact)
                return []
        return [self._float_path]


def _on_cpu(bundle: ModelBundle) -> ModelBundle:
    return replace(bundle, network=bundle.network.cpu(), example_input=bundle.example_input.cpu())


def _naming(owned: OwnedRuntime) -> Naming:
    return Naming(owned.plugin_id, f"runtime {owned.runtime.name!r} of zoo_runtimes")


def _measured(
    runtime: Runtime, models: Sequence[Path], inputs: Mapping[str, NDArray[Any]], options: LoadOptions
) -> list[Sequence[Cost]]:
    """Return the costs of the models with one thread, then with all cores."""
    return [
        measure_alternately(
            runtime,
            models,
            inputs,
            num_threads=num_threads,
            exact_products=options.exact_products,
            allow_fallback=True,  # also of the float network, which a runtime for integers may not take as a whole
        )
        for num_threads in dict.fromkeys((1, os.cpu_count() or 1))
    ]


def _latency(costs: Sequence[Cost]) -> LatencyRecord:
    quantized, *others = costs
    return LatencyRecord(
        num_threads=quantized.num_threads,
        num_passes=quantized.num_passes,
        p50_ms=quantized.p50_ms,
        p90_ms=quantized.p90_ms,
        min_ms=quantized.min_ms,
        max_ms=quantized.max_ms,
        float_p50_ms=others[0].p50_ms if others else None,
        float_p90_ms=others[0].p90_ms if others else None,
    )


def _refuse_fallback(name: str, elsewhere: Sequence[str], allowed: bool) -> None:
    if elsewhere and not allowed:
        more = f" and {len(elsewhere) - 5} more" if len(elsewhere) > 5 else ""
        raise RuntimeUnsupportedError(
            f"The runtime {name!r} computes {len(elsewhere)} nodes elsewhere than on its own device: "
            f"{', '.join(elsewhere[:5])}{more}.",
            fix="export the network so that the device takes them, or record the fallback with --allow-fallback.",
        )
