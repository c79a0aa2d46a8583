"""The catalogue: good files, every kind of bad one, and names looked up in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from zoo_core.datatypes import ModelEntry
from zoo_core.errors import RegistryError
from zoo_core.registry import builtin_registry, find_model, load_registry

MINIMAL = """\
schema: 1
models:
  toy:
    plugin: toy_detector
    task: detection
    description: A toy.
    dataset: {name: toys, split: test, calibration_split: trainval}
    recipe: w8a8
    headline: voc07_11pt/devkit
"""


def write(tmp_path: Path, text: str, name: str = "registry.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def edited(tmp_path: Path, *edits: tuple[str, str]) -> Path:
    text = MINIMAL
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return write(tmp_path, text)


def with_lines(tmp_path: Path, *lines: str) -> Path:
    return write(tmp_path, MINIMAL + "".join(f"    {line}\n" for line in lines))


def test_the_builtin_registry_holds_the_published_model() -> None:
    entry = load_registry(builtin_registry())["ssd_mobilenetv2_lite"]
    assert entry.plugin == "ssd_mobilenetv2_lite"
    assert entry.source == builtin_registry()
    assert entry.checkpoint is not None
    assert entry.checkpoint.url == "https://storage.googleapis.com/models-hao/mb2-ssd-lite-mp-0_686.pth"
    assert entry.checkpoint.sha256 is None
    assert entry.optimized_checkpoint is not None
    assert entry.optimized_checkpoint.url.endswith("/phase_2_january_artifacts/ssd_mobilenetv2_w8a8_state_dict.pth")
    assert (entry.dataset.name, entry.dataset.split, entry.dataset.calibration_split) == ("VOC2007", "test", "trainval")


def test_the_archives_are_torchvisions_with_its_checksums() -> None:
    voc = pytest.importorskip("torchvision.datasets.voc")
    table = [voc.DATASET_YEAR_DICT[key] for key in ("2007-test", "2007")]
    entry = load_registry(builtin_registry())["ssd_mobilenetv2_lite"]
    # Its host changed between the supported versions; files and checksums did not.
    ours = [(archive.url.rpartition("/")[2], archive.md5) for archive in entry.dataset.archives]
    assert ours == [(row["url"].rpartition("/")[2], row["md5"]) for row in table]


def test_the_per_class_reference_averages_to_the_published_mean() -> None:
    entry = load_registry(builtin_registry())["ssd_mobilenetv2_lite"]
    reference = entry.references[0]
    assert (reference.stage, reference.protocol) == ("fp32", entry.headline)
    assert len(reference.per_class) == 20
    assert sum(reference.per_class.values()) / 20 == pytest.approx(reference.value, abs=5e-5)


def test_a_minimal_entry_gets_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    entry = load_registry(path)["toy"]
    assert isinstance(entry, ModelEntry)
    assert (entry.checkpoint, entry.references, entry.options, entry.source) == (None, (), {}, path)


def test_options_are_passed_on_untouched(tmp_path: Path) -> None:
    entry = load_registry(with_lines(tmp_path, "options: {width_mult: 0.5, sizes: [1, 2]}"))["toy"]
    assert entry.options == {"width_mult": 0.5, "sizes": [1, 2]}


def test_every_problem_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    path = edited(
        tmp_path,
        ("    description: A toy.\n", "    desciption: A toy.\n"),
        ("plugin: toy_detector", "plugin: 7"),
        ("split: test, ", ""),
        ("headline: voc07_11pt/devkit", "headline: ''"),
    )
    with pytest.raises(RegistryError) as caught:
        load_registry(path)
    fact = caught.value.fact
    assert f"{path} has 5 problems" in fact
    assert f"{path}:4: models.toy.plugin: expected text (in quotes), got the number 7" in fact
    assert f"{path}:6: models.toy.desciption: no such key; write 'description'" in fact
    assert f"{path}:3: models.toy.description: the key is missing; add it" in fact
    assert f"{path}:7: models.toy.dataset.split: the key is missing; add it" in fact
    assert f"{path}:9: models.toy.headline: the text is empty" in fact


REFERENCE = "stage: fp32, protocol: p, source: s"
VARIANT = (
    f"references: [{{{{{REFERENCE}, tolerance: 0, value: 1, variants: [{{{{value: 1, versions: {{{{{{}}}}}}}}}}]}}}}]"
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("checkpoint: {url: 'http://a.org/b'}", 'models.toy.checkpoint.url: "http://a.org/b" is neither https://'),
        ("checkpoint: {url: 'package:zoo/../../x'}", "checkpoint.url: .* is neither"),
        ("checkpoint: {url: 'https://a.org/b', sha256: abc}", 'sha256: "abc" is not 64 hexadecimal'),
        ("checkpoint: {url: 'https://a.org/b', sha256: 123}", "expected text .*, got the number 123"),
        ("checkpoint: {url: 'https://a.org/b', md5: abc}", 'md5: "abc" is not 32 hexadecimal'),
        ("checkpoint: {url: 'https://a.org/b', sha256_prefix: b03531}", 'sha256_prefix: "b03531" is not 8 to 63 hexa'),
        ("checkpoint: {url: 'https://a.org/b', size_bytes: 0}", "size_bytes: 0 is not a file size"),
        ("checkpoint: {url: 'https://a.org/b', size_bytes: true}", "size_bytes: expected a whole number, got true"),
        ("checkpoint: {url: 'package:a/b', requirement: 'a b'}", 'requirement: "a b" is not a requirement of pip'),
        ("checkpoint: https://a.org/b", "checkpoint: expected a mapping, got the text"),
        ("checkpoint: {}", "checkpoint.url: the key is missing"),
        (
            f"references: [{{{REFERENCE}, tolerance: -0.1, value: 0.5}}]",
            r"references\[0\].tolerance: .* -0.1 is negative",
        ),
        (
            f"references: [{{{REFERENCE}, tolerance: 0.5, value: 0.5}}]",
            r"tolerance 0\.5 is 50 points(?s:.*)0\.5 points is 0\.005",
        ),
        (f"references: [{{{REFERENCE}, tolerance: 0.1, value: 68.7}}]", r"68\.7 is outside (?s:.*)68\.7 % is 0\.687"),
        (f"references: [{{{REFERENCE}, tolerance: 0.1, value: high}}]", 'expected a number, got the text "high"'),
        (
            f"references: [{{{REFERENCE}, tolerance: 0.1, value: 0.5, per_class: {{cat: 1.5, dog: 1}}}}]",
            "per_class: outside .*: cat 1.5",
        ),
        (
            VARIANT.format("torch: 2.12"),
            "expected text .*, got the number 2.12",
        ),
        (
            VARIANT.format("torch: new"),
            r'variants\[0\].versions: "new" is not a version specifier',
        ),
        (
            VARIANT.format("tensorflow: '2'"),
            'runs do not record the version of "tensorflow"',
        ),
        (
            VARIANT.format(""),
            "no version is",
        ),
        (f"references: [{{{REFERENCE}, tolerance: 0, value: 1, settings: [w4]}}]", 'settings: "w4" is not an override'),
        (
            f"references: [{{{REFERENCE}, tolerance: 0, value: 1, num_calibration_images: 0}}]",
            "num_calibration_images: 0 is not a number of images",
        ),
        (
            f"references: [{{{REFERENCE}, tolerance: 0, value: 1, optimized_checkpoint: published}}]",
            'optimized_checkpoint: "published" is neither 64 hexadecimal digits in lower case nor "any"',
        ),
        ("references: [{protocol: '', stage: a, source: b, tolerance: 0, value: 0}]", "protocol: the text is empty"),
        ("references: {stage: fp32}", "references: expected a list, got a mapping"),
        ("recipes: ''", "models.toy.recipes: the text is empty"),
        ("recipe_folder: recipes", "models.toy.recipe_folder: no such key"),
        ("options: [1]", "options: expected a mapping, got a list"),
        ("source: /etc/passwd", "models.toy.source: no such key"),
        ("model_id: other", "models.toy.model_id: no such key"),
        ("task: detection", r"registry\.yaml:10: models\.toy\.task: the key is repeated, first on line 5"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        load_registry(with_lines(tmp_path, line))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping, got nothing"),
        ("[1, 2]", "expected a mapping, got a list"),
        ("schema: 1", "models: the key is missing"),
        ("models: {}", "schema: the key is missing"),
        ("schema:\nmodels: {}", "schema: the value null is not a schema version"),
        ("schema: one\nmodels: {}", 'schema: the value "one" is not a schema version'),
        ("schema: 1\nmodels: [a]", "models: expected models, got a list"),
        ("schema: 1\nmodels: {a: 3}", "models.a: expected a mapping, got the number 3"),
        ("schema: 1\nmodels: {}\nmodules: {}", "modules: no such key\\.\n  fix: write 'models'"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        load_registry(write(tmp_path, text))


def test_a_newer_schema_is_the_only_problem_reported(tmp_path: Path) -> None:
    path = write(tmp_path, "schema: 2\nmodels: {Toy: 3}\nmore: 1\n")
    with pytest.raises(RegistryError, match=re.escape(f"{path}:1: schema: the file has schema 2;")) as caught:
        load_registry(path)
    assert "upgrade zoo-eval" in caught.value.fix
    assert "Toy" not in str(caught.value)


def test_a_model_id_has_lower_case_letters_digits_and_underscores(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r'"My-Toy" is not a model id.\n  fix: use only a-z, 0-9 and _'):
        load_registry(edited(tmp_path, ("  toy:", "  My-Toy:")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("layout: image_foldr", "dataset.layout: \"image_foldr\" is not a layout .*\n  fix: write 'image_folder'"),
        ("layout: lmdb", "dataset.layout: .*\n  fix: name one of voc, coco, image_folder, .* implement zoo_dataset"),
        ("label_fil: a.txt", "dataset.label_fil: no such key.\n  fix: write 'label_file'"),
    ],
)
def test_a_bad_dataset_declaration_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        load_registry(edited(tmp_path, ("dataset: {name: toys,", f"dataset: {{{line}, name: toys,")))


def catalog(tmp_path: Path, name: str, **owners: Any) -> dict[str, ModelEntry]:
    body = MINIMAL.split("  toy:\n")[1]
    text = "schema: 1\nmodels:\n" + "".join(
        f"  {model_id}:\n{body.replace('toy_detector', plugin)}" for model_id, plugin in owners.items()
    )
    return load_registry(write(tmp_path, text, name))


def test_a_model_is_found_by_id_and_by_a_plugin_that_owns_only_it(tmp_path: Path) -> None:
    models = catalog(tmp_path, "r.yaml", car="cars", oak="trees", elm="trees")
    assert find_model(models, "oak").model_id == "oak"
    assert find_model(models, "cars").model_id == "car"


def test_a_plugin_that_owns_several_models_lists_them(tmp_path: Path) -> None:
    models = catalog(tmp_path, "r.yaml", oak="trees", elm="trees")
    with pytest.raises(RegistryError, match=r"'trees' owns 2 models.\n  fix: name one of them: oak, elm"):
        find_model(models, "trees")


def test_an_unknown_model_suggests_the_closest_name(tmp_path: Path) -> None:
    models = catalog(tmp_path, "r.yaml", toy_small="toys", oak="trees")
    with pytest.raises(RegistryError, match=r"no model 'toy_smal'; the closest is 'toy_small'.\n.*: toy_small, oak"):
        find_model(models, "toy_smal")
    with pytest.raises(RegistryError, match=r"no model 'x'.\n  fix: name one of the known models: none"):
        find_model({}, "x")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("num_images: 0", "dataset.num_images: 0 is not a number of images"),
        ("num_images: many", "dataset.num_images: expected a whole number"),
        ("fingerprints: [abc]", 'dataset.fingerprints: "abc" is not 64 hexadecimal digits in lower case'),
        ("fingerprints: [1]", "expected text .*, got the number 1"),
        ("fingerprints: abc", "dataset.fingerprints: expected a list"),
    ],
)
def test_images_of_references_that_cannot_be_right_are_refused(tmp_path: Path, keys: str, message: str) -> None:
    path = edited(tmp_path, ("calibration_split: trainval", f"calibration_split: trainval, {keys}"))
    with pytest.raises(RegistryError, match=message):
        load_registry(path)


def test_a_dataset_names_the_images_of_its_references(tmp_path: Path) -> None:
    keys = f"num_images: 3, fingerprints: ['{'a' * 64}']"
    dataset = load_registry(edited(tmp_path, ("calibration_split: trainval", f"calibration_split: trainval, {keys}")))[
        "toy"
    ].dataset
    assert (dataset.num_images, dataset.fingerprints) == (3, ("a" * 64,))
