"""What a user can get wrong: one paragraph on stderr that names thing and fix, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from zoo_core.cli.main import run_command_line

Arguments = Callable[..., list[str]]
Spoil = Callable[[Path], dict[str, object]]
"""Damages the data set in a folder, and returns the options to run with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """What a command that failed printed on stderr."""

    fact: str
    fix: str


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, where a stray file would show."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path / "cache"))
    return cwd


@pytest.fixture
def fail(capfd: pytest.CaptureFixture[str]) -> Callable[..., Printed]:
    """Runs a command line that must fail, and checks the form of what it prints."""

    def run(arguments: list[str], *, code: int = 2) -> Printed:
        capfd.readouterr()
        assert run_command_line(arguments) == code
        captured = capfd.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        lines = captured.err.splitlines()
        start = next(index for index, line in enumerate(lines) if line.startswith("error: "))
        paragraph = "\n".join(lines[start:])
        assert "\n\n" not in paragraph
        fact, fix, advice = paragraph.partition("\n  fix: ")
        assert fix
        assert advice
        return Printed(fact=fact, fix=advice)

    return run


def annotation(text: str) -> Spoil:
    def spoil(root: Path) -> dict[str, object]:
        (root / "Annotations" / "000003.xml").write_text(text)
        return {}

    return spoil


def labels(content: bytes) -> Spoil:
    def spoil(root: Path) -> dict[str, object]:
        (root / "own.txt").write_bytes(content)
        return {"labels": root / "own.txt"}

    return spoil


def ids(content: str) -> Spoil:
    def spoil(root: Path) -> dict[str, object]:
        (root / "ids.txt").write_text(content)
        return {"ids": root / "ids.txt"}

    return spoil


def recipe(content: str) -> Spoil:
    def spoil(root: Path) -> dict[str, object]:
        (root / "own.yaml").write_text(content)
        return {"recipe": root / "own.yaml"}

    return spoil


def checkpoint(content: object) -> Spoil:
    def spoil(root: Path) -> dict[str, object]:
        torch.save(content, root / "other.pth")
        return {"checkpoint": root / "other.pth"}

    return spoil


def without_images(root: Path) -> dict[str, object]:
    (root / "JPEGImages" / "000003.jpg").unlink()
    return {}


def a_finished_run(root: Path) -> dict[str, object]:
    (root.parent / "run").mkdir()
    (root.parent / "run" / "run.json").write_text("{}")
    return {}


def options(**given: object) -> Spoil:
    return lambda _root: given


BROKEN_OBJECT = "<annotation><object><name>{}</name><bndbox><xmin>11</xmin></bndbox></object></annotation>"
UNKNOWN_STEP = "schema: 1\nname: own\ndescription: d\nsteps:\n  - step: fold_batch_norm\n  - step: quantsim\n"

CASES: dict[str, tuple[Spoil, str, str]] = {
    "missing directory": (options(data="nowhere/VOC2007"), "nowhere/VOC2007 is not a directory", "--data"),
    "a directory without data": (options(data="."), "not a data set in VOC layout", "VOCdevkit"),
    "malformed XML": (annotation("<annotation><object>"), "000003.xml is not well-formed XML", "restore"),
    "XML with entities": (annotation('<!DOCTYPE a [<!ENTITY b "c">]><a/>'), "000003.xml declares", "remove"),
    "incomplete object": (annotation(BROKEN_OBJECT.format("cat")), r"000003.xml", "<ymin>"),
    "class unknown to the label file": (
        annotation(BROKEN_OBJECT.format("cta")),
        "class 'cta' is not among the 2 classes; the closest is 'cat'",
        "labels.txt",
    ),
    "missing image": (without_images, "000003.jpg does not exist", "complete"),
    "wrong keys": (checkpoint({"conv.weight": torch.zeros(3)}), "478 keys missing", "mb2-ssd-lite"),
    "missing checkpoint": (options(checkpoint="none.pth"), "none.pth", "path"),
    "unknown step": (recipe(UNKNOWN_STEP), "unknown step; the closest is 'fold_batch_norms'", "the steps are"),
    "recipe that is no YAML": (recipe("steps: [\n"), "own.yaml", ""),
    "missing recipe file": (options(recipe="none.yaml"), "none.yaml", ""),
    "unknown recipe": (options(recipe="w2a2"), "no recipe 'w2a2'", "w8a8_tf_enhanced_cle_adaround"),
    "missing label file": (options(labels="none.txt"), "none.txt", ""),
    "label file that is an image": (labels(b"\xff\xd8\xff\xe0\x00\x10JFIF"), "own.txt", ""),
    "label file with a class twice": (
        labels(b"cat\ndog\ncat\n"),
        "own.txt:3: class name 'cat' is already on line 1",
        "",
    ),
    "label file of other weights": (labels(b"cat\ndog\nemu\n"), "3 classes incl. background, label file has 4", ""),
    "unknown split": (options(split="tset"), "no split 'tset'; the closest is 'test'", "trainval"),
    "out directory not empty": (a_finished_run, "run exists and is not empty", "--out"),
    "missing id file": (options(ids="none.txt"), "none.txt cannot be read", "one id per line"),
    "empty id file": (ids("\n\n"), "ids.txt contains no ids", "one image id per line"),
    "strange id": (ids("000003\n000033\n"), "1 of the 2 ids .* first '000033'", ""),
    "id of another split": (ids("000009\n"), "first '000009'", "--split"),
    "set without value": (options(set="quantsim.param_bw"), "form is not STEP.PARAM=VALUE", "quantsim.param_bw=8"),
    "set without step": (options(set="param_bw=4"), "form is not STEP.PARAM=VALUE", "quantsim.param_bw=8"),
    "set of an unknown step": (options(set="quantsin.param_bw=4"), "quantsin", "quantsim"),
    "set of an unknown parameter": (options(set="quantsim.parm_bw=4"), "parm_bw.*the closest is 'param_bw'", ""),
    "set out of range": (options(set="quantsim.param_bw=2"), "param_bw: 2: .*greater than or equal to 4", ""),
    "set of the wrong type": (options(set="quantsim.param_bw=eight"), "param_bw: 'eight'", ""),
    "no such CUDA device": (options(device="cuda:99"), "--device is 'cuda:99'", "--device cpu"),
    "no such device": (options(device="npu"), "--device is 'npu'", "cuda:N"),
    "unknown stage": (options(stages="fp32,w8a4"), "no stage 'w8a4'", "optimized_fp32"),
    "out directory that is not UTF-8": (options(out="\udcff"), r"--out: the path .*\\xff is not UTF-8 text", "another"),
    "out directory with a long name": (options(out="a" * 300), "--out: the path aaa.* cannot be used: File name", ""),
    "data that are not UTF-8": (options(data="\udcff"), r"--data: .*\\xff is not UTF-8 text", ""),
    "weights that are not UTF-8": (options(checkpoint="\udcff.pth"), r"--checkpoint: .*\\xff.pth is not UTF-8", ""),
    "weights with a long name": (options(checkpoint="a" * 300), "--checkpoint: .*File name too long", ""),
    "label file that is not UTF-8": (options(labels="\udcff"), "--labels: .* is not UTF-8", ""),
    "id file that is not UTF-8": (options(ids="\udcff"), "--ids: .* is not UTF-8", ""),
    "recipe that is not UTF-8": (options(recipe="\udcff.yaml"), "--recipe: .* is not UTF-8", ""),
    "recipe with a long name": (options(recipe=f"{'a' * 300}.yaml"), "--recipe: .*File name too long", ""),
    "AIMET configuration with a long name": (
        options(set=f"quantsim.config_file={'a' * 300}"),
        "File name too long",
        "",
    ),
    "set not finite": (options(set="adaround.reg_param=.inf"), "inf", ""),
    "recipe with an empty schema": (recipe("schema:\nname: own\n"), "schema: the value null is not a schema", ""),
    "limit of nothing": (options(limit=0), "--limit is 0", "1 or more"),
}


@pytest.mark.parametrize(("spoil", "fact", "fix"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_bad_input_is_named_with_its_fix_and_leaves_nothing_behind(
    spoil: Spoil,
    fact: str,
    fix: str,
    as_json: bool,
    fail: Callable[..., Printed],
    arguments: Arguments,
    voc: Path,
    elsewhere: Path,
) -> None:
    changed = spoil(voc)
    before = {path: path.stat().st_mtime_ns for path in voc.parent.rglob("*")}

    printed = fail([*arguments(**changed), *(["--json"] if as_json else [])])

    assert re.search(fact, printed.fact, re.DOTALL), printed
    assert fix in printed.fix, printed
    assert {path: path.stat().st_mtime_ns for path in voc.parent.rglob("*")} == before
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("option", [{}, {"out": None}], ids=["named", "default"])
def test_a_working_directory_that_is_not_utf8_is_refused_and_left_empty(
    option: dict[str, None],
    fail: Callable[..., Printed],
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "\udcfe"
    folder.mkdir()
    monkeypatch.chdir(folder)

    printed = fail(arguments(**{"out": "run", **option}))

    assert "xfe" in printed.fact
    assert "is not UTF-8 text" in printed.fact
    assert not list(folder.iterdir())


@pytest.mark.parametrize("value", ["nan", "-nan"])
@pytest.mark.parametrize("command", [["compare", "run"], ["detect", "model", "image.png"]])
def test_a_score_that_is_not_a_number_is_refused(command: list[str], value: str, fail: Callable[..., Printed]) -> None:
    assert fail([*command, "--score", value]).fact == f"error: --score is {value}."


def test_a_file_of_ids_may_begin_with_a_byte_order_mark(
    arguments: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf000003\r\n000001\r\n")

    assert run_command_line(arguments(stages="fp32", ids=tmp_path / "ids.txt")) == 0, capfd.readouterr().err

    assert (tmp_path / "run" / "image_ids.txt").read_text() == "000003\n000001\n"


def test_an_unknown_model_suggests_the_closest(
    fail: Callable[..., Printed], arguments: Arguments, tmp_path: Path
) -> None:
    printed = fail(arguments("ssd_mobilenetv2"))

    assert "no model 'ssd_mobilenetv2'; the closest is 'ssd_mobilenetv2_lite'" in printed.fact
    assert not (tmp_path / "run").exists()


class Hostile:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_checkpoint_that_would_execute_code_is_refused_unexecuted(
    save: Callable[[object, Path], None],
    fail: Callable[..., Printed],
    arguments: Arguments,
    elsewhere: Path,
    tmp_path: Path,
) -> None:
    save({"weight": Hostile(elsewhere / "executed")}, tmp_path / "hostile.pth")

    printed = fail(arguments(checkpoint=tmp_path / "hostile.pth", stages="fp32"))

    assert "hostile.pth" in printed.fact
    assert not list(elsewhere.iterdir())
    assert not (tmp_path / "run").exists()


def test_a_truncated_image_is_named_with_the_run_that_keeps_what_was_complete(
    fail: Callable[..., Printed], arguments: Arguments, voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo_core.inference.CHUNK_IMAGES", 2)
    image = voc / "JPEGImages" / "000005.jpg"
    image.write_bytes(image.read_bytes()[:-100])

    # torch: ONNX Runtime is compared with it on the first images, this one among them, before any chunk
    printed = fail(arguments(stages="fp32", batch_size=2, runtime="torch"))

    run = tmp_path / "run"
    assert re.search(r"000005\.jpg is not a complete image: .*truncated", printed.fact)
    assert f"The run stopped at stage 'fp32'; completed results are kept in {run}" in printed.fact
    assert "restore the file" in printed.fix
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "failed"
    assert "000005.jpg" in record["error"]
    assert not (run / "metrics.json").exists()
    assert not (run / "report.html").exists()
    assert [path.name for path in sorted((run / "predictions" / "fp32").iterdir())] == [
        "chunk-00000.parquet",
        "chunk-00001.parquet",
    ]
    assert "000005.jpg" in (run / "log.txt").read_text()


def test_a_run_that_succeeds_shows_that_these_arguments_are_otherwise_good(
    arguments: Arguments, capfd: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    assert run_command_line([*arguments(stages="fp32", limit=2), "--json", "--no-report"]) == 0

    captured = capfd.readouterr()
    assert list(json.loads(captured.out)["stages"]) == ["fp32"]
    assert not list(elsewhere.iterdir())
