"""Whatever a file holds, its reader gives a value or a ZooError: never another exception, never a crash.

``ZOO_EVAL_FUZZ=20000 pytest tests/fuzzing -s`` tries so many inputs for each reader; docs/reliability.md has counts.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import mutations
from zoo_core.artifacts import load_metadata, load_state_dict
from zoo_core.datasets.coco import CocoDetection
from zoo_core.datasets.coco_results import read_coco_results
from zoo_core.datasets.comp4 import read_comp4
from zoo_core.datasets.voc import VocDetection
from zoo_core.datatypes import Detections
from zoo_core.errors import ZooError
from zoo_core.quantization.pipeline import plan
from zoo_core.recipes import load_recipe, override
from zoo_core.registry import load_registry
from zoo_core.results.stored import open_run
from zoo_core.runs.listing import read_listed
from zoo_core.runs.predictions import Chunk, PredictionStore

ROOT = Path(__file__).parents[2]
NUM_INPUTS = int(os.environ.get("ZOO_EVAL_FUZZ", "400"))

fuzz = settings(
    max_examples=NUM_INPUTS,
    deadline=None,
    # A long run is for finding faults, the short one for keeping them away: only the first needs new inputs each time.
    derandomize=NUM_INPUTS <= 400,
    database=None,
    suppress_health_check=list(HealthCheck),
)

tried: Counter[str] = Counter()
refused: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _report_counts() -> Generator[None, None, None]:
    yield
    for reader in tried:
        print(f"{reader}: {tried[reader]} inputs, {refused[reader]} refused")  # noqa: T201 - seen with -s alone
    # Inputs that are all refused at the first byte would prove nothing.
    shallow = [reader for reader in tried if tried[reader] - refused[reader] < 0.01 * tried[reader]]
    assert not shallow, f"hardly any input of {shallow} was accepted"


def give(reader: str, read: Callable[[], object]) -> object | None:
    """What a reader makes of an input; None where it refused it with a fact and a fix."""
    tried[reader] += 1
    try:
        return read()
    except ZooError as error:
        assert error.fact  # noqa: PT017 - the point is that nothing else is raised
        assert error.fix  # noqa: PT017
        refused[reader] += 1
        return None


# --------------------------------------------------------------------------- annotations

ANNOTATION = b"""<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>VOC2007</folder><size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>dog</name><pose>Left</pose><difficult>1</difficult>
<bndbox><xmin>4</xmin><ymin>2.5</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object>
<object><name>cat</name><bndbox><ymin>1</ymin><xmin>1</xmin><xmax>9</xmax><ymax>9</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>
</annotation>"""
DOCTYPE = b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
ANNOTATIONS = (ANNOTATION, ANNOTATION.decode().replace("utf-8", "utf-16").encode("utf-16"), DOCTYPE)


@given(mutations.damaged(ANNOTATIONS, mutations.xml_tokens))
@fuzz
def test_an_annotation(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = folder(tmp_path_factory, "voc")
    for name in ("ImageSets/Main", "Annotations"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/test.txt").write_text("a1\n")
    (root / "Annotations/a1.xml").write_bytes(data)
    target = give("annotation", lambda: VocDetection(root, "test").target("a1"))
    if target is not None:
        assert np.isfinite(target.boxes).all()  # type: ignore[attr-defined]


@given(mutations.damaged((b"000001\n000002\n", "a-b_c\r\né\r\n".encode()), mutations.words))
@fuzz
def test_a_list_of_ids_and_a_label_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = folder(tmp_path_factory, "ids")
    for name in ("ImageSets/Main", "Annotations"):
        (root / name).mkdir(parents=True, exist_ok=True)
    listing, labels = root / "ImageSets/Main/test.txt", root / "labels.txt"
    listing.write_bytes(data)
    found = give("ids", lambda: VocDetection(root, "test").ids)
    if found is not None:
        annotations = root / "Annotations"
        paths = [(annotations / f"{image_id}.xml").resolve() for image_id in found]  # type: ignore[attr-defined]
        assert all(path.parent == annotations.resolve() for path in paths)
    listing.write_text("a1\n")
    labels.write_bytes(data)
    give("labels", lambda: VocDetection(root, "test", label_file=labels).class_names)


# --------------------------------------------------------------------------- registries and recipes

REGISTRIES = ((ROOT / "registry.yaml").read_bytes(), (ROOT / "tests/toy_detector/registry.yaml").read_bytes())
RECIPES = tuple(path.read_bytes() for path in sorted((ROOT / "plugins").rglob("recipes/*.yaml")))


@given(mutations.damaged(REGISTRIES[1:] * 3 + REGISTRIES, mutations.yaml_tokens))
@fuzz
def test_a_registry(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = folder(tmp_path_factory, "registry") / "registry.yaml"
    path.write_bytes(data)
    give("registry", lambda: load_registry(path))


@given(
    mutations.damaged(RECIPES, mutations.yaml_tokens), st.text(alphabet="quantsimparam_bw.=8[]{}&*!-: ", max_size=30)
)
@fuzz
def test_a_recipe_and_a_setting(tmp_path_factory: pytest.TempPathFactory, data: bytes, setting: str) -> None:
    path = folder(tmp_path_factory, "recipe") / "recipe.yaml"
    path.write_bytes(data)
    recipe = give("recipe", lambda: load_recipe(path))
    if recipe is not None:
        give("recipe", lambda: plan(recipe))  # type: ignore[arg-type]
        give("setting", lambda: override(recipe, [setting]))  # type: ignore[arg-type]
        give("setting", lambda: override(recipe, [f"quantsim.param_bw={setting}"]))  # type: ignore[arg-type]


# --------------------------------------------------------------------------- detections of others

COMP4 = b"000001 0.91 1 2.5 30 40\n000002 1e-3 -4 2 300 1e3\n000001 0.5 10 10 10 10\n"
COMP4_NAMES = ("comp4_det_test_cat.txt", "comp4_det_test_dog.txt", "comp4_det_val_cat.txt", "comp4_det__.txt")


@given(
    mutations.damaged((COMP4, COMP4.replace(b"\n", b"\r\n")), mutations.words), st.sets(st.sampled_from(COMP4_NAMES))
)
@fuzz
def test_comp4_files(tmp_path_factory: pytest.TempPathFactory, data: bytes, names: set[str]) -> None:
    root = folder(tmp_path_factory, "comp4")
    for path in root.iterdir():
        path.unlink()
    for name in names or COMP4_NAMES[:1]:
        (root / name).write_bytes(data)
    found = give("comp4", lambda: read_comp4(root, ("cat", "dog")))
    if found is not None:
        assert np.isfinite(found.boxes).all()  # type: ignore[attr-defined]
        assert found.by_image() is not None  # type: ignore[attr-defined]


RESULTS = [
    {"image_id": 1, "category_id": 1, "bbox": [1, 2.5, 30, 40], "score": 0.9},
    {"image_id": "000002", "category_id": 2, "bbox": [0, 0, 1e3, 2], "score": 1, "segmentation": [[1, 2]]},
]


@given(
    mutations.damaged(
        (json.dumps(RESULTS).encode(), json.dumps(RESULTS, indent=1).encode("utf-16")), mutations.json_tokens
    )
    | mutations.json_edits(RESULTS)
)
@fuzz
def test_a_coco_results_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = folder(tmp_path_factory, "coco") / "results.json"
    path.write_bytes(data)
    found = give("COCO results", lambda: read_coco_results(path, ("cat", "dog"), ("000001", "000002")))
    for preds in found.values() if isinstance(found, dict) else ():
        assert np.isfinite(preds.boxes).all()
        assert np.isfinite(preds.scores).all()


INSTANCES = {
    "info": {"year": 2017},
    "images": [
        {"id": 139, "file_name": "000000000139.jpg", "width": 640, "height": 426},
        {"id": 285, "file_name": "a/b c.jpg", "width": 5, "height": 4, "license": 1},
    ],
    "annotations": [
        {"id": 1, "image_id": 139, "category_id": 90, "bbox": [1, 2.5, 30, 4e1], "area": 12.5, "iscrowd": 1},
        {
            "id": 2,
            "image_id": 285,
            "category_id": 1,
            "bbox": [0, 0, 5, 4],
            "segmentation": {"counts": [1, 2], "size": [4, 5]},
        },
    ],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 90, "name": "traffic light"}],
}


@given(
    mutations.damaged(
        (json.dumps(INSTANCES).encode(), json.dumps(INSTANCES, indent=1).encode("utf-16")), mutations.json_tokens
    )
    | mutations.json_edits(INSTANCES)
)
@fuzz
def test_a_coco_annotation_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = folder(tmp_path_factory, "coco_instances")
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/instances_val.json").write_bytes(data)
    dataset = give("COCO annotations", lambda: CocoDetection(root, "val"))
    if dataset is None:
        return
    assert isinstance(dataset, CocoDetection)
    for image_id in dataset.ids:
        target = dataset.target(image_id)
        assert np.isfinite(target.boxes).all()
        assert target.areas is not None
        assert np.isfinite(target.areas).all()
        assert (target.labels < len(dataset.class_names)).all()
        assert dataset.image_path(image_id).resolve().is_relative_to(root.resolve())


# --------------------------------------------------------------------------- weights


def saved(**options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2).half()}}, buffer, **options)
    return buffer.getvalue()


def safetensors_file() -> bytes:
    from safetensors.torch import save

    return save({"a.weight": torch.ones(2, 3), "b": torch.zeros(2).half()}, {"who": "me"})


ZIP, LEGACY, SAFE = saved(), saved(_use_new_zipfile_serialization=False), safetensors_file()
HEADER = json.loads(SAFE[8 : 8 + int.from_bytes(SAFE[:8], "little")])


def entry(name: str) -> bytes:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(ZIP)) as archive:
        return archive.read(next(found for found in archive.namelist() if found.endswith(f"/{name}")))


CHECKPOINTS = st.one_of(
    mutations.damaged((ZIP,), mutations.by_pattern(rb"PK..")),
    mutations.damaged((entry("data.pkl"),), mutations.pickle_tokens).map(
        lambda content: mutations.with_entry(ZIP, "data.pkl", content)
    ),
    mutations.damaged((LEGACY, pickle.dumps({"a": [1, "b", None]}, 2)), mutations.pickle_tokens),
    mutations.damaged((SAFE,), mutations.safetensors_tokens),
    mutations.json_edits(HEADER).map(lambda header: mutations.with_header(SAFE, header)),
)


@given(CHECKPOINTS)
@fuzz
def test_a_checkpoint(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = folder(tmp_path_factory, "weights") / "weights.pth"
    path.write_bytes(data)
    tensors = give("checkpoint", lambda: load_state_dict(path))
    for tensor in tensors.values() if isinstance(tensors, dict) else ():
        tensor.clone()  # what is claimed is there
    give("checkpoint metadata", lambda: load_metadata(path))


# --------------------------------------------------------------------------- run directories of others

RUN = {
    "schema": 1, "status": "complete", "model": "toy", "started": "2026-01-01T00:00:00+00:00", "headline": "coco",
    "dataset": {"name": "grid", "split": "test", "num_images": 2, "limited": False, "class_names": ["a"]},
    "recipe": {"name": "w8a8", "steps": [{"step": "quantsim"}]}, "request": {"labels": None}, "warnings": [],
}  # fmt: skip
METRICS = {
    "schema": 1, "headline": "coco",
    "stages": {"fp32": {"metrics": {"coco": {"map": 0.5, "per_class": {"a": 0.5}}}, "same_as": None}},
}  # fmt: skip


@given(
    mutations.damaged((json.dumps(RUN).encode(),), mutations.json_tokens) | mutations.json_edits(RUN),
    mutations.damaged((json.dumps(METRICS).encode(),), mutations.json_tokens) | mutations.json_edits(METRICS),
    mutations.damaged((b"a\nb\n",), mutations.words),
)
@fuzz
def test_the_record_of_a_run(tmp_path_factory: pytest.TempPathFactory, run: bytes, metrics: bytes, ids: bytes) -> None:
    path = folder(tmp_path_factory, "run")
    for name, data in (("run.json", run), ("metrics.json", metrics), ("image_ids.txt", ids)):
        (path / name).write_bytes(data)
    (path / "predictions" / "fp32").mkdir(parents=True, exist_ok=True)
    opened = give("run directory", lambda: open_run(path))
    if opened is not None:
        give("run directory", lambda: opened.stages)  # type: ignore[attr-defined]
        give("run directory", lambda: opened.predictions("fp32", Detections))  # type: ignore[attr-defined]
    give("run directory", lambda: read_listed(path))


def chunk() -> Chunk:
    found = [
        Detections(boxes=np.ones((num, 4), np.float32), scores=np.ones(num, np.float32), labels=np.zeros(num, np.int64))
        for num in (2, 0)
    ]
    return Chunk(index=0, image_ids=("a", "b"), predictions=tuple(found))


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return PredictionStore(tmp_path_factory.mktemp("chunk"), Detections).write(chunk()).read_bytes()


@given(st.data())
@fuzz
def test_a_chunk_of_predictions(tmp_path_factory: pytest.TempPathFactory, parquet: bytes, data: st.DataObject) -> None:
    root = folder(tmp_path_factory, "parquet")
    (root / "chunk-00000.parquet").write_bytes(data.draw(mutations.damaged((parquet,), mutations.by_pattern(rb"PAR1"))))
    give("predictions", lambda: list(PredictionStore(root, Detections)))


_folders: dict[str, Path] = {}


def folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """One folder for all inputs of a test: making one for each would take longer than reading."""
    if name not in _folders:
        _folders[name] = factory.mktemp(name)
    return _folders[name]
