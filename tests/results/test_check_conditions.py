"""What each option of `run` does to the gate, and conditions that references state."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from results.conftest import MakeRun, edit_json
from results.gated import QUANTIZED, entry, reference, write_gated_run
from typed_records import DEPLOYMENT
from zoo_core.cli.run import run as run_command
from zoo_core.datatypes import Artifact, ModelEntry, Reference
from zoo_core.plugins import PluginHost
from zoo_core.results.check import Verdict, check_run
from zoo_core.results.stored import open_run

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
FLOAT = reference(0.75)
OPTIMIZED = reference(0.5, stage="optimized_fp32")
LOADED = {"path": "/somewhere/network.safetensors", "sha256": "9" * 64, "optimized": True}

Record = dict[str, Any]


@pytest.fixture
def run(make_run: MakeRun, host: PluginHost) -> Path:
    """A run without a note: its images, weights and calibration are those of ``known``."""
    path = write_gated_run(make_run, host)
    edit_json(path / "run.json", lambda record: record["calibration"].update(num_images=64, num_available=64))
    return path


def known(host: PluginHost, *references: Reference, **dataset: Any) -> ModelEntry:
    """The toy's entry, whose references state their images, weights and calibration."""
    stated = [dataclasses.replace(one, num_calibration_images=64) for one in references]
    found = entry(host, *stated)
    images = dataclasses.replace(found.dataset, **{"num_images": 12, "fingerprints": ("e" * 64, "f" * 64), **dataset})
    weights = Artifact(url="https://example.org/toy", sha256="c" * 64)
    return dataclasses.replace(found, dataset=images, checkpoint=weights)


def gate(host: PluginHost, run: Path, stages: tuple[str, ...] = ()) -> Verdict:
    return check_run(open_run(run), known(host, FLOAT, QUANTIZED, OPTIMIZED), host, stages)


def change(record: Record, **parts: Mapping[str, Any]) -> None:
    for name, values in parts.items():
        record[name].update(values)


def changes(**parts: Mapping[str, Any]) -> Callable[[Record], None]:
    return lambda record: change(record, **parts)


def loaded(record: Record) -> None:
    record["optimized_checkpoint"] = LOADED


def resumed(record: Record) -> None:
    record["resumed"][0]["warnings"] = ["The run was resumed on another processor."]


def wrong_layer(record: Record) -> None:
    """A stage is an exported network, of which a runtime computes the first layer wrong."""
    parity = DEPLOYMENT.parity
    assert parity is not None
    layers = (dataclasses.replace(parity.layers[0], max_lsb=90), *parity.layers[1:])
    wrong = dataclasses.replace(DEPLOYMENT, parity=dataclasses.replace(parity, layers=layers))
    record["stages"]["w8a8"]["deployment"] = dataclasses.asdict(wrong)


def stages_of(*stages: str) -> Callable[[Record], None]:
    def edit(metrics: Record) -> None:
        metrics["stages"] = {name: metrics["stages"][name] for name in stages}

    return edit


IGNORED: Callable[[Record], None] = changes(settings={"workers": 0}, request={"cache": False, "offline": True})

# option: what the gate does, the run that it leaves, words of the verdict
OPTIONS: dict[str, list[tuple[str, Callable[[Record], None], str]]] = {
    "--data": [
        ("refuses", changes(dataset={"num_images": 10, "num_images_in_split": 10}), "10 images; the references .* 12"),
        (
            "refuses",
            changes(dataset={"fingerprint": "0" * 64}),
            "other images .* 000000000000 instead of eeeeeeeeeeee or",
        ),
    ],
    "--split": [("refuses", changes(dataset={"split": "val"}), "evaluated split 'val'; references are for 'test'")],
    "--ids": [("refuses", changes(dataset={"num_images": 5, "limited": True}), "limited: 5 of the 12 images")],
    "--limit": [("refuses", changes(dataset={"num_images": 5, "limited": True}), "limited: 5 of the 12 images")],
    "--allow-calibration-overlap": [
        ("refuses", changes(calibration={"overlap": ["a1"]}), "1 calibration images belong to the evaluated split"),
        ("notes", changes(calibration={"alike": ["a1", "a2"]}), "2 calibration images look like evaluated ones"),
    ],
    "--recipe": [
        ("sets aside", changes(recipe={"name": "mine", "sha256": "0" * 64}), "recipe w8a8_toy; the run used mine")
    ],
    "--set": [
        (
            "sets aside",
            changes(recipe={"sha256": "0" * 64, "overrides": ["quantsim.quant_scheme=tf"]}),
            "the run used w8a8_toy --set quantsim.quant_scheme=tf",
        )
    ],
    "--calibration-size": [
        ("sets aside", changes(calibration={"num_images": 63}), "calibrated on 64 images; the run on 63"),
        ("notes", changes(calibration={"num_images": 65}), "calibrated on 65 images; the reference .* requires 64"),
    ],
    "--calibration-split": [
        ("sets aside", changes(calibration={"split": "val"}), "calibrated on split 'trainval'; the run on 'val'")
    ],
    "--optimized-checkpoint": [
        ("sets aside", loaded, "network that was made by the recipe; the run's was loaded .SHA-256 999")
    ],
    "--checkpoint": [
        ("notes", changes(checkpoint={"sha256": "0" * 64}), "not the registry's: .* 000000000000 instead of ccc")
    ],
    "--labels": [
        ("notes", changes(request={"labels": "/labels.txt"}), "The 2 classes of the run are those of --labels")
    ],
    "--runtime": [
        ("notes", changes(settings={"runtime": "onnxruntime"}), "Float stages were computed with onnxruntime")
    ],
    "--batch-size": [("notes", changes(settings={"batch_size": 8}), "The batch size was 8")],
    "--device": [("notes", changes(settings={"device": "cuda:0", "batch_size": 64}), "The run was computed on cuda:0")],
    "--seed": [("notes", changes(settings={"seed": 3}), "The seed was 3")],
    "--runtimes": [("refuses", wrong_layer, "layer stem differs from the simulation in .* by up to 90")],
    "--resume": [("notes", resumed, "resumed on another processor")],
    "--stages": [("fails", stages_of("fp32"), "w8a8 .* was not measured")],
}
OPTIONS |= {
    option: [("ignores", IGNORED, "")]
    for option in (
        *("--registry", "--batch-sizes", "--workers", "--cache", "--offline", "--out", "--require-full-quantization"),
        *("--report", "--json", "--verbose", "--quiet", "--allow-fallback"),
    )
}
CASES = [(option, *case) for option, cases in OPTIONS.items() for case in cases]


@pytest.mark.parametrize(
    ("option", "effect", "edit", "words"),
    CASES,
    ids=[f"{option}-{index}" for index, (option, *_) in enumerate(CASES)],
)
def test_each_option_of_run_has_its_effect_on_the_gate(
    host: PluginHost, run: Path, option: str, effect: str, edit: Callable[[Record], None], words: str
) -> None:
    before = gate(host, run)
    assert (before.passed, before.obstacles, before.notes, before.set_aside) == (True, [], [], [])

    edit_json(run / ("metrics.json" if option == "--stages" else "run.json"), edit)

    after = gate(host, run)
    said = {
        "refuses": after.obstacles,
        "sets aside": [one.reason for one in after.set_aside],
        "fails": [finding.message for finding in after.findings],
        "notes": after.notes,
        "ignores": [""],
    }[effect]
    assert any(re.search(words, text) for text in said), after
    assert after.passed is (effect in ("notes", "ignores"))
    if effect == "sets aside":
        assert gate(host, run, ("fp32",)).passed  # fp32 depends on no recipe and no calibration
        stage = after.set_aside[0].reference.stage
        assert not gate(host, run, ("fp32", stage)).passed
        assert not gate(host, run, (stage,)).passed
    if effect == "ignores":
        assert (after.notes, after.set_aside) == ([], [])


def documented() -> dict[str, str]:
    """Option to effect, as the table of the page has them."""
    section = PAGE.read_text(encoding="utf-8").split("**Options of a run.**")[1].split("\n\n**")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `--")]
    return {option: row[2].strip() for row in rows for option in re.findall(r"`(--[a-z-]+)`", row[1])}


def test_the_page_states_the_effect_of_every_option() -> None:
    assert documented() == {
        option: ", ".join(dict.fromkeys(effect for effect, _, _ in cases)) for option, cases in OPTIONS.items()
    }


def test_no_option_of_run_is_left_out() -> None:
    shown = [param for param in run_command.params if not getattr(param, "hidden", False)]
    assert {param.opts[0] for param in shown if param.opts[0].startswith("--")} == set(OPTIONS)


# --------------------------------------------------------------------------- conditions that are no option


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            changes(recipe={"config_sha256": "0" * 64}),
            "w8a8_toy; the run used w8a8_toy, with another AIMET configuration",
        ),
        (lambda record: record.update(calibration=None), "taken with calibration images; the run recorded none"),
    ],
)
def test_a_condition_of_quantization_sets_the_references_aside(
    host: PluginHost, run: Path, spoil: Callable[[Record], None], words: str
) -> None:
    edit_json(run / "run.json", spoil)

    verdict = gate(host, run)

    assert [one.reference.stage for one in verdict.set_aside] == ["w8a8", "optimized_fp32"]
    assert all(words in one.reason for one in verdict.set_aside)
    assert not verdict.passed
    assert gate(host, run, ("fp32",)).passed


def test_all_reasons_why_a_reference_is_set_aside_are_given(host: PluginHost, run: Path) -> None:
    edit_json(run / "run.json", changes(recipe={"name": "mine", "sha256": "0" * 64}, calibration={"num_images": 1}))
    edit_json(run / "run.json", loaded)
    assert [one.reason.count("; also ") for one in gate(host, run).set_aside] == [1, 2]


def test_a_batch_size_that_fell_is_noted(host: PluginHost, run: Path) -> None:
    text = "w8a8: there was not enough memory for 8 images at a time; the stage was run with 4."
    edit_json(run / "run.json", lambda record: record["stages"]["w8a8"].update(warnings=[text], batch_size=4))

    verdict = gate(host, run)

    assert verdict.notes == [text]
    assert verdict.passed


def test_a_reference_without_a_number_of_calibration_images_requires_the_default(host: PluginHost, run: Path) -> None:
    edit_json(run / "run.json", changes(calibration={"num_images": 499, "num_available": 5000}))
    verdict = check_run(open_run(run), entry(host, FLOAT, QUANTIZED), host)
    (aside,) = verdict.set_aside
    assert "so 500 are required (the default of 500, or the whole split); the run used 499" in aside.reason
    assert not verdict.passed

    edit_json(run / "run.json", changes(calibration={"num_images": 499, "num_available": 499}))
    verdict = check_run(open_run(run), entry(host, FLOAT, QUANTIZED), host)
    assert any("does not name its number of calibration images; the run used 499" in text for text in verdict.notes)
    assert verdict.passed


def test_calibration_does_not_matter_to_a_reference_of_fp32(host: PluginHost, run: Path) -> None:
    edit_json(run / "run.json", changes(calibration={"num_images": 1, "split": "val"}))
    verdict = check_run(open_run(run), known(host, FLOAT), host)
    assert verdict.passed
    assert verdict.set_aside == []


@pytest.mark.parametrize(
    ("stated", "used", "fits"),
    [
        (None, None, True),
        (None, LOADED, False),
        ("9" * 64, LOADED, True),
        ("8" * 64, LOADED, False),
        ("9" * 64, None, False),
        ("any", LOADED, True),
        ("any", None, True),
    ],
)
def test_an_optimized_network_fits_a_reference_that_was_taken_with_it(
    host: PluginHost, run: Path, stated: str | None, used: Record | None, fits: bool
) -> None:
    edit_json(run / "run.json", lambda record: record.update(optimized_checkpoint=used))
    stating = dataclasses.replace(OPTIMIZED, optimized_checkpoint=stated)

    verdict = check_run(open_run(run), known(host, FLOAT, QUANTIZED, stating), host)

    assert [one.reference.stage for one in verdict.set_aside] == ([] if fits else ["optimized_fp32"])
    assert verdict.passed is fits


def test_a_recipe_any_reference_still_needs_calibration_and_network(host: PluginHost, run: Path) -> None:
    anyhow = [dataclasses.replace(one, recipe="any") for one in (QUANTIZED, OPTIMIZED)]
    edit_json(run / "run.json", changes(recipe={"sha256": "0" * 64, "config_sha256": "0" * 64}))
    assert check_run(open_run(run), known(host, FLOAT, *anyhow), host).passed

    edit_json(run / "run.json", loaded)
    verdict = check_run(open_run(run), known(host, FLOAT, *anyhow), host)
    assert [one.reference.stage for one in verdict.set_aside] == ["optimized_fp32"]

    edit_json(run / "run.json", changes(calibration={"num_images": 1}))
    verdict = check_run(open_run(run), known(host, FLOAT, *anyhow), host)
    assert [one.reference.stage for one in verdict.set_aside] == ["w8a8", "optimized_fp32"]


def test_a_reference_with_values_per_class_needs_these_classes(host: PluginHost, run: Path) -> None:
    for names, passed in ((("red", "green"), True), (("red",), True), (("red", "blue"), False)):
        stating = dataclasses.replace(FLOAT, per_class=dict.fromkeys(names, 0.75))
        verdict = check_run(open_run(run), known(host, stating), host)
        assert verdict.passed is passed
    assert verdict.set_aside[0].reason == "taken with classes that the run lacks: blue"


@pytest.mark.parametrize(
    ("dataset", "passed"),
    [
        ({"num_images": None, "fingerprints": ()}, False),
        ({"num_images": 12, "fingerprints": ()}, True),
        ({"num_images": None, "fingerprints": ("f" * 64,)}, True),
    ],
)
def test_references_name_their_images_by_number_or_fingerprint(
    host: PluginHost, run: Path, dataset: dict[str, Any], passed: bool
) -> None:
    verdict = check_run(open_run(run), known(host, FLOAT, **dataset), host)
    assert verdict.passed is passed
    assert [text.split("'toy_squares'")[1] for text in verdict.obstacles] == (
        [] if passed else [", so any images would do: write `num_images` below `dataset`. The run evaluated 12."]
    )


@pytest.mark.parametrize("recipe", [{"overrides": ["quantsim.param_bw=4"]}, {"name": "mine"}])
def test_a_run_whose_stages_have_other_names_does_not_pass_by_its_float_stage(
    host: PluginHost, run: Path, recipe: dict[str, Any]
) -> None:
    edit_json(run / "run.json", changes(recipe={"sha256": "0" * 64, **recipe}))
    edit_json(run / "metrics.json", stages_of("fp32"))
    edit_json(run / "metrics.json", lambda metrics: metrics["stages"].update(w4a8=metrics["stages"]["fp32"]))

    verdict = gate(host, run)

    assert [text.split(" fits")[0] for text in verdict.obstacles] == [
        "No reference of stage 'w8a8'",
        "No reference of stage 'optimized_fp32'",
    ]
    assert not verdict.passed
    assert gate(host, run, ("fp32",)).passed
    assert not gate(host, run, ("fp32", "w4a8")).passed
    four = dataclasses.replace(QUANTIZED, stage="w4a8", recipe="any")
    assert check_run(open_run(run), known(host, FLOAT, QUANTIZED, four), host).passed


@pytest.mark.parametrize(
    ("checkpoint", "given", "words"),
    [
        (Artifact(url="https://example.org/toy", sha256_prefix="cccccccc"), None, ""),
        (Artifact(url="https://example.org/toy", sha256_prefix="cccccccd"), None, "cccccccccccc instead of cccccccd"),
        (Artifact(url="https://example.org/toy"), None, ""),
        (Artifact(url="https://example.org/toy"), "/my.pth", "given with --checkpoint; the registry has no hash"),
        (None, "/my.pth", "given with --checkpoint; the registry has no hash"),
    ],
)
def test_weights_are_compared_with_what_the_registry_states(
    host: PluginHost, run: Path, checkpoint: Artifact | None, given: str | None, words: str
) -> None:
    edit_json(run / "run.json", changes(request={"checkpoint": given}))
    verdict = check_run(open_run(run), dataclasses.replace(known(host, FLOAT), checkpoint=checkpoint), host)
    assert verdict.passed
    assert len(verdict.notes) == bool(words)
    assert words in "".join(verdict.notes)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda metrics: metrics.update(num_images=250), "num_images is 250 instead of 12"),
        (lambda metrics: metrics.update(fingerprint="0" * 64), "fingerprint is 0000"),
        (lambda metrics: metrics.update(model="other"), "model is other instead of toy_squares"),
        (lambda metrics: metrics["stages"]["fp32"].update(num_images=3), "num_images of fp32 is 3 instead of 12"),
        (lambda metrics: metrics.update(limited=True), "The run is limited"),
    ],
)
def test_metrics_of_another_run_satisfy_no_gate(
    host: PluginHost, run: Path, edit: Callable[[Record], None], words: str
) -> None:
    edit_json(run / "metrics.json", edit)
    verdict = gate(host, run)
    assert words in " ".join(verdict.obstacles)
    assert not verdict.passed


def test_a_run_that_only_quantized_says_so(host: PluginHost, run: Path) -> None:
    (run / "metrics.json").unlink()
    assert gate(host, run).obstacles[0] == "The run has no metrics.json: it only quantized, or the file is gone."
