"""Resolves and checks a request before a run starts; writes nothing to disk except the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core import artifacts
from zoo_core.datatypes import Checkpoint, DatasetRequest, StepContext
from zoo_core.errors import CheckpointError, DataError, ZooError, closest_hint
from zoo_core.evaluation import stages as stage_names
from zoo_core.evaluation.request import DEFAULT_BATCH_SIZE, FLOAT_RUNTIMES, Reporter, check_paths, read_ids
from zoo_core.evaluation.runtimes import usable_runtimes
from zoo_core.evaluation.sources import Program, program_of
from zoo_core.inference import CalibrationSet, InferenceSettings
from zoo_core.plugins import PluginHost
from zoo_core.quantization import pipeline, saved
from zoo_core.recipes import load_recipe, names_a_file, override
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.request import EvaluationRequest

if TYPE_CHECKING:
    from zoo_core.datasets.calibration import CalibrationDraw
    from zoo_core.datasets.pictures import ImageEvidence, Twin
    from zoo_core.datatypes import EvalDataset, ModelBundle, ModelEntry, Recipe, Target, Task
    from zoo_core.plugins import OwnedRuntime
    from zoo_core.quantization.pipeline import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Evaluated images with their targets and hashes.

    Attributes:
        dataset: The evaluated split.
        image_ids: In the order evaluated.
        targets: Ground truth by image id.
        evidence: Hashes and thumbnails by id, of every image that calibration must avoid.
        num_unread: Images that calibration must avoid but that could not be read; only if nothing is evaluated.
        fingerprint: One SHA-256 over ids and hashes, independent of their order.
        limited: True if the split has more images.
    """

    dataset: EvalDataset
    image_ids: tuple[str, ...]
    targets: Mapping[str, Target]
    evidence: Mapping[str, ImageEvidence]
    num_unread: int
    fingerprint: str
    limited: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Request with every name resolved and every input checked."""

    request: EvaluationRequest
    entry: ModelEntry
    task: Task
    plan: Plan
    program: Program
    stages: tuple[stage_names.Stage, ...]
    data: Data
    calibration_dataset: EvalDataset | None
    calibration: CalibrationDraw | None
    calibration_fingerprint: str | None
    checkpoint: Checkpoint
    bundle: ModelBundle
    optimized_checkpoint: Checkpoint | None
    optimized_bundle: ModelBundle | None
    runtimes: Mapping[str, OwnedRuntime]
    settings: InferenceSettings


def prepare(
    request: EvaluationRequest,
    host: PluginHost,
    reporter: Reporter,
    *,
    evaluate: bool = True,
    resumes: bool = False,
    measured: Collection[str] = (),
    compare_splits: bool = True,
) -> Job:
    """Resolve and check a request.

    Args:
        request: The request.
        host: The plugins.
        reporter: Shows the progress of reading annotations.
        evaluate: False only quantizes: the evaluated split is opened and its images are hashed, so that calibration
            avoids them; images that cannot be read are counted.
        resumes: ``request.out`` is the run to resume.
        measured: Runtimes that the run to resume has measured; they need not be usable here.
        compare_splits: False compares ids only, for a result that is no number.

    Raises:
        ZooError: Anything the user can fix, before a run directory exists.
    """
    _check_numbers(request)
    check_paths(request)
    entry = host.model(request.model)
    task = host.task(entry)
    plan = pipeline.plan(_recipe(request, entry, host), host.recipe_steps())
    program = program_of(host, entry, plan)  # at once, so that an edit during the preparation is seen as a change later
    runtimes = usable_runtimes(host, [name for name in request.runtimes if name not in measured], plan)
    possible = stage_names.all_stages(
        [bound.step.name for bound in plan.steps],
        plan.tag,
        optimized_checkpoint=request.optimized_checkpoint is not None,
        runtimes=tuple(dict.fromkeys(request.runtimes)),
    )
    chosen = stage_names.choose(possible, request.stages, plan.tag)
    if not resumes:
        RunDirectory.check(request.out, entry.model_id)
    settings = _inference_settings(request)
    calibrates = any(stage.quantized or stage.point >= 0 for stage in chosen)
    pictures = calibrates and compare_splits
    data = _data(request, entry, host, reporter, evaluate=evaluate, pictures=pictures)
    calibration_dataset, calibration, calibration_fingerprint = None, None, None
    if calibrates:
        calibration_dataset, calibration, calibration_fingerprint = _calibration(
            request, entry, host, data, pictures=pictures
        )
    checkpoint = original_checkpoint(request, entry)
    class_names = data.dataset.class_names
    bundle = host.load_model(entry, checkpoint, class_names, settings.device)
    optimized, optimized_bundle = None, None
    if request.optimized_checkpoint is not None and any(stage.optimized for stage in chosen):
        optimized = artifacts.local_checkpoint(request.optimized_checkpoint, optimized=True)
        if saved.is_saved_network(optimized.path):
            optimized_bundle = saved.load_saved(bundle, optimized.path)
        else:
            optimized_bundle = host.load_model(entry, optimized, class_names, settings.device)
    return Job(
        request=request,
        entry=entry,
        task=task,
        plan=plan,
        program=program,
        stages=chosen,
        data=data,
        calibration_dataset=calibration_dataset,
        calibration=calibration,
        calibration_fingerprint=calibration_fingerprint,
        checkpoint=checkpoint,
        bundle=bundle,
        optimized_checkpoint=optimized,
        optimized_bundle=optimized_bundle,
        runtimes=runtimes,
        settings=settings,
    )


def _check_numbers(request: EvaluationRequest) -> None:
    for flag, value, least in (
        ("--limit", request.limit, 1),
        ("--batch-size", request.batch_size, 1),
        *(("--batch-sizes", size, 1) for size in request.batch_sizes),
        ("--workers", request.workers, 0),
        ("--calibration-size", request.calibration_size, 1),
        ("--seed", request.seed, 0),
    ):
        if value is not None and value < least:
            raise DataError(f"{flag} is {value}.", fix=f"give {least} or more.")


def _recipe(request: EvaluationRequest, entry: ModelEntry, host: PluginHost) -> Recipe:
    name = request.recipe or entry.recipe
    recipe = load_recipe(Path(name)) if names_a_file(name) else host.recipe(entry, name)
    return override(recipe, request.settings) if request.settings else recipe


def resolve_device(device: str) -> str:
    """Turn ``auto``, ``cpu`` or ``cuda[:N]`` into a torch device string that exists here.

    Raises:
        DataError: No such device.
    """
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if device == "cpu":
        return device
    if kind != "cuda" or (index and not index.isdecimal()):
        raise DataError(f"--device is {device!r}.", fix="give auto, cpu, cuda or cuda:N.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        raise DataError(
            f"--device is {device!r}, but torch {torch.__version__} sees {count} CUDA devices on this machine.",
            fix="use --device cpu, or install a torch build and driver that support the device.",
        )
    return f"cuda:{int(index or 0)}"


def _inference_settings(request: EvaluationRequest) -> InferenceSettings:
    device = resolve_device(request.device)
    _check_float_runtime(request.runtime, device)
    batch_size = request.batch_size or DEFAULT_BATCH_SIZE[device.split(":")[0]]
    return InferenceSettings(batch_size=batch_size, workers=request.workers, device=device)


def _check_float_runtime(runtime: str, device: str) -> None:
    if runtime not in FLOAT_RUNTIMES:
        raise DataError(f"--runtime is {runtime!r}.", fix=f"give {' or '.join(FLOAT_RUNTIMES)}.")
    if runtime == "onnxruntime" and device != "cpu":
        raise DataError(
            f"--runtime is 'onnxruntime', which zoo-eval runs only on the CPU, but the device is {device!r}.",
            fix="add --device cpu, or use --runtime torch.",
        )


# ------------------------------------------------------------------ data


def data_root(data: Path | None, entry: ModelEntry, *, offline: bool) -> Path | None:
    """Return the given folder, else the registry's archives in the cache, else None for the plugin's own data."""
    if data is not None or not entry.dataset.archives:
        return data
    return fetch_dataset(entry, offline=offline)


def fetch_dataset(entry: ModelEntry, *, offline: bool) -> Path:
    """Download and unpack the registry's archives into one folder of the cache, once; return that folder."""
    key = hashlib.sha256("\n".join(archive.url for archive in entry.dataset.archives).encode()).hexdigest()[:12]
    root = artifacts.cache_dir() / "datasets" / f"{entry.dataset.name.lower()}-{key}"
    for index, archive in enumerate(entry.dataset.archives):
        done = root / f".unpacked-{index}"
        if not done.exists():
            artifacts.unpack(artifacts.fetch(archive, offline=offline), root)
            done.touch()
    return root


def _data(
    request: EvaluationRequest,
    entry: ModelEntry,
    host: PluginHost,
    reporter: Reporter,
    *,
    evaluate: bool,
    pictures: bool,
) -> Data:
    from zoo_core.datasets.labels import read_label_file
    from zoo_core.datasets.pictures import CheckedDataset, take_evidence

    if request.labels is not None:
        read_label_file(request.labels)  # a plugin may not read it, and the run keeps a copy
    root = data_root(request.data, entry, offline=request.offline)
    split = request.split or entry.dataset.split
    dataset = host.dataset(entry, DatasetRequest(root=root, split=split, label_file=request.labels))
    image_ids = _select(dataset, request) if evaluate else ()
    _refuse_unprintable(image_ids, dataset)
    looked_at = image_ids if evaluate else dataset.ids if pictures else ()
    reporter.start(f"checking {dataset.name} {split}", len(looked_at))
    targets: dict[str, Target] = {}
    evidence: dict[str, ImageEvidence] = {}
    for image_id in looked_at:
        if evaluate:
            targets[image_id] = dataset.target(image_id)
        try:
            evidence[image_id] = take_evidence(dataset, image_id, thumbnail=pictures)
        except ZooError:
            if evaluate:
                raise
        reporter.advance(1)
    reporter.finish()
    return Data(
        dataset=CheckedDataset(dataset, evidence),
        image_ids=image_ids,
        targets=targets,
        evidence=evidence,
        num_unread=len(looked_at) - len(evidence),
        fingerprint=fingerprint({image_id: evidence[image_id].content_hash for image_id in image_ids}),
        limited=len(image_ids) < len(dataset.ids),
    )


def fingerprint(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 over image ids and content hashes; the order of images does not matter."""
    digest = hashlib.sha256()
    for image_id in sorted(hashes):
        digest.update(f"{len(image_id)}:{image_id}:{hashes[image_id]}\n".encode())
    return digest.hexdigest()


def _refuse_unprintable(image_ids: Sequence[str], dataset: EvalDataset) -> None:
    """Refuse ids with line breaks or other control characters: files of a run have one id per line."""
    for image_id in image_ids:
        if not image_id or not image_id.isprintable():
            raise DataError(
                f"Image id {image_id[:80]!r} of {dataset.name} {dataset.split} is empty, or contains a line break or "
                "another character that cannot be printed.",
                fix="rename the image; ids must be printable text on one line.",
            )


def _select(dataset: EvalDataset, request: EvaluationRequest) -> tuple[str, ...]:
    ids = dataset.ids
    if request.ids_file is not None:
        wanted = read_ids(request.ids_file)
        known = set(ids)
        strangers = [image_id for image_id in wanted if image_id not in known]
        if strangers:
            raise DataError(
                f"{len(strangers)} of the {len(wanted)} ids in {request.ids_file} are not in split {dataset.split!r} "
                f"of {dataset.name}, first {strangers[0]!r}{closest_hint(strangers[0], ids)}.",
                fix="correct the ids, or name the split they belong to with --split.",
            )
        ids = tuple(wanted)
    return tuple(ids[: request.limit] if request.limit is not None else ids)


def _calibration(
    request: EvaluationRequest, entry: ModelEntry, host: PluginHost, data: Data, *, pictures: bool
) -> tuple[EvalDataset, CalibrationDraw, str]:
    from zoo_core.datasets.calibration import draw_calibration
    from zoo_core.datasets.pictures import CheckedDataset, same_pictures, take_evidence

    split = request.calibration_split or entry.dataset.calibration_split
    dataset = host.dataset(entry, DatasetRequest(root=data.dataset.root, split=split, label_file=request.labels))
    evidence: dict[str, ImageEvidence] = {}

    def overlap(ids: Sequence[str]) -> Mapping[str, Twin]:
        for image_id in ids:  # also detects a missing file now, not after the fp32 stage
            evidence[image_id] = take_evidence(dataset, image_id, thumbnail=pictures)
        return same_pictures(dataset, evidence, data.dataset, data.evidence)

    draw = draw_calibration(
        dataset.ids,
        request.calibration_size,
        request.seed,
        evaluated_ids=data.dataset.ids,  # the whole split, even when the run is limited to a part of it
        same_pictures=overlap,
        allow_overlap=request.allow_calibration_overlap,
    )
    hashes = {image_id: evidence[image_id].content_hash for image_id in draw.ids}
    return CheckedDataset(dataset, evidence), draw, fingerprint(hashes)


# ------------------------------------------------------------------ weights


def original_checkpoint(request: EvaluationRequest, entry: ModelEntry) -> Checkpoint:
    """Return the given original weights, else the registry's, fetched into the cache.

    Raises:
        CheckpointError: Neither exists.
        ArtifactError: The download failed or differs from the declared file.
    """
    if request.checkpoint is not None:
        return artifacts.local_checkpoint(request.checkpoint)
    if entry.checkpoint is None:
        raise CheckpointError(
            f"The registry has no weights for model {entry.model_id!r}.", fix="give a checkpoint with --checkpoint."
        )
    return artifacts.local_checkpoint(artifacts.fetch(entry.checkpoint, offline=request.offline))


def step_context(
    job: Job, work_dir: Path, reporter: Reporter, progress: Callable[[int, int, str], None]
) -> StepContext:
    """Read the drawn calibration images and return the context of the recipe's steps.

    Args:
        job: Prepared with a stage that needs calibration.
        work_dir: Existing; for the steps' temporary files.
        reporter: Shows the progress of reading.
        progress: Called by the steps with their progress.
    """
    assert job.calibration_dataset is not None  # noqa: S101  # prepare() draws images for every stage that needs them
    assert job.calibration is not None  # noqa: S101  # likewise
    ids = job.calibration.ids
    reporter.start("reading calibration images", len(ids))
    calibration = CalibrationSet(job.calibration_dataset, ids, job.bundle.preprocess, job.settings, reporter.advance)
    reporter.finish()
    return StepContext(
        example_input=job.bundle.example_input.to(job.settings.device),
        calibration=calibration,
        quant=job.plan.quant,
        seed=job.request.seed,
        work_dir=work_dir,
        progress=progress,
        cache_dir=artifacts.cache_dir() / "steps" if job.request.cache else None,
    )
