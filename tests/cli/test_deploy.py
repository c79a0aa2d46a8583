"""``zoo-eval deploy`` and the options for runtimes: what stdout holds, what the errors say, and the exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployed_runs import DEPLOYED, STAGES, host_with, write_place
from runtimes import pretending
from zoo_core.cli.main import run_command_line
from zoo_core.datatypes import Runtime
from zoo_core.runs.record import read_record

Patch = Callable[..., None]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_place(tmp_path_factory.mktemp("deployed"))


@pytest.fixture
def bring(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Let the command line find the toy and these runtimes."""

    def replace(*runtimes: Runtime) -> None:
        monkeypatch.setattr("zoo_core.plugins.PluginHost", lambda **_options: host_with(*runtimes))

    return replace


@pytest.fixture
def arguments(place: Path, tmp_path: Path) -> list[str]:
    """Of a ``run`` of the toy with its simulation."""
    options = {
        "--data": place / "grid",
        "--checkpoint": place / "toy.safetensors",
        "--recipe": place / "recipe.yaml",
        "--stages": ",".join(STAGES),
        "--out": tmp_path / "run",
    }
    return ["run", "toy_squares", "--no-report", *(str(text) for pair in options.items() for text in pair)]


@pytest.fixture
def run(arguments: list[str], bring: Patch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A finished run without runtimes."""
    bring(pretending.Emulator())
    assert run_command_line(arguments) == 0
    capsys.readouterr()
    return tmp_path / "run"


def test_json_is_one_object_with_everything_that_was_measured(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["deploy", str(run), "--json", "--out", str(tmp_path / "deployed")]) == 0

    content = json.loads(capsys.readouterr().out)
    assert list(content) == ["runtimes"]
    assert list(content["runtimes"]) == ["onnxruntime"]
    found = content["runtimes"]["onnxruntime"]
    assert found["metrics"]["voc07_11pt/pytorch-ssd"]["map"] == pytest.approx(0.909, abs=0.001)
    assert set(found["metrics"]["coco"]) >= {"map", "map_50", "map_75"}
    assert [set(layer) for layer in found["parity"]["layers"]] == [
        {"name", "differing", "differing_inside", "max_lsb"},
        {"name", "differing", "differing_inside", "max_lsb"},
    ]
    assert found["parity"]["first_over_threshold"] is None
    assert 0 < found["integer_coverage"] < 1
    assert set(found["latency_ms"]) == {"p50", "p90"}
    assert found["latency_ms"]["p50"] > 0
    assert found["peak_rss_bytes"] > 1_000_000
    assert found["model_bytes"] == (tmp_path / "deployed" / "quantized" / "model.onnx").stat().st_size
    assert found["run_dir"] == str(tmp_path / "deployed")
    assert set(found) == {
        "stage",
        "run_dir",
        "version",
        "metrics",
        "change",
        "simulation",
        "parity",
        "integer_coverage",
        "nodes",
        "remedy",
        "latency_ms",
        "latency",
        "peak_rss_bytes",
        "model_bytes",
    }


def test_json_of_run_has_the_stages_of_runtimes(
    arguments: list[str], bring: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(pretending.Emulator())

    assert run_command_line([*arguments, "--runtimes", "emulator", "--json"]) == 0

    stages = json.loads(capsys.readouterr().out)["stages"]
    assert list(stages) == [*STAGES, DEPLOYED]
    assert stages[DEPLOYED]["simulation"]["num_images_changed"] == 0


def test_the_table_has_a_column_for_each_runtime(
    run: Path, tmp_path: Path, bring: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(pretending.Emulator(), pretending.Second())

    assert run_command_line(["deploy", str(run), "--runtimes", " emulator, second,", "--out", str(tmp_path / "d")]) == 0

    shown = capsys.readouterr().out
    assert re.search(r"emulator 1\.0 .* second 1\.0", shown)
    assert "2 of 2 equal" in shown
    assert f"run directory: {tmp_path / 'd'}" in shown
    assert (tmp_path / "d" / "report.html").exists()


# ------------------------------------------------------------------ errors


def failed(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Stderr of a command that exits with this code and prints nothing on stdout, although it asks for JSON."""
    assert run_command_line([*arguments, "--json"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


REFUSED: dict[str, tuple[type[Runtime], int, str]] = {
    "missing": (pretending.Missing, 2, "libmissing is not installed.\n  fix: pip install libmissing"),
    "unsupported": (pretending.Unsupported, 2, "Node /head/Conv: 'no kernel for Conv(11)'"),
    "falls-back": (pretending.FallsBack, 2, "computes 7 nodes elsewhere than on its own device: /pool/Conv"),
    "integers": (pretending.TakesIntegers, 2, "add --set quantsim.input=quantized"),
    "always-wrong": (pretending.AlwaysWrong, 2, "computes wrong integers"),
    "broken": (pretending.Broken, 3, "Plugin 'acme' failed in runtime 'broken' of zoo_runtimes: ValueError"),
    "later": (pretending.FailsLater, 3, "Plugin 'acme' failed in runtime 'later' of zoo_runtimes: ValueError"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", ["run", "deploy"])
def test_a_runtime_that_cannot_be_used_says_why_and_what_to_do(
    command: str,
    name: str,
    request: pytest.FixtureRequest,
    bring: Patch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind, code, words = REFUSED[name]
    given = (
        request.getfixturevalue("arguments")
        if command == "run"
        else ["deploy", str(request.getfixturevalue("run")), "--out", str(tmp_path / "deployed")]
    )
    bring(kind())

    printed = " ".join(failed([*given, "--runtimes", name], code, capsys).split())

    assert " ".join(words.split()) in printed


def test_a_fallback_is_allowed_by_an_option_and_shown(
    run: Path, tmp_path: Path, bring: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(pretending.FallsBack())
    out = tmp_path / "deployed"

    assert (
        run_command_line(["deploy", str(run), "--runtimes", "falls-back", "--allow-fallback", "--out", str(out)]) == 0
    )

    assert "7 nodes ran elsewhere than on the runtime's own device" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--runtimes", "onxruntime"], "There is no runtime 'onxruntime'; the closest is 'onnxruntime'"),
        (["--runtimes", "torch"], "The runtime 'torch' computes the simulation itself"),
        (["--runtimes", ","], "No runtime was named."),
        (["--set", "quantsim.param_bw=4"], "is a run, whose network is quantized already; --set would have no effect"),
        (["--limit", "0"], "--limit is 0"),
        (["--limit", "some"], "'some' is not a valid integer"),
    ],
)
def test_a_wrong_argument_of_deploy_exits_with_2_and_writes_nothing(
    more: list[str], words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = failed(["deploy", str(run), *more, "--out", str(tmp_path / "deployed")], 2, capsys)

    assert words in " ".join(printed.split())
    assert not (tmp_path / "deployed").exists()


def test_a_folder_that_is_no_run_says_so(bring: Patch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring()
    assert "has no run.json" in failed(["deploy", str(tmp_path)], 2, capsys)


@pytest.mark.parametrize("command", ["deploy", "export"])
def test_a_run_that_does_not_exist_is_not_taken_for_a_model(
    command: str, bring: Patch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring()
    printed = failed([command, str(tmp_path / "gone")], 2, capsys)

    assert f"{tmp_path / 'gone'} does not exist." in printed
    assert "fix: name a run directory, or a model" in printed


# ------------------------------------------------------------------ options


@pytest.mark.parametrize("more", [["--runtime", "torch"], ["--backend", "torch"], ["--backend=torch"]])
def test_float_stages_run_in_torch_where_asked(
    more: list[str], arguments: list[str], bring: Patch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring()

    assert run_command_line([*arguments, "--stages", "fp32", *more, "--json"]) == 0

    captured = capsys.readouterr()
    record = read_record(tmp_path / "run")
    assert (record.settings.runtime, record.stages["fp32"].runtime) == ("torch", "torch")
    assert ("warning: --backend is deprecated; use --runtime." in captured.err) == more[0].startswith("--backend")
    assert list(json.loads(captured.out)["stages"]) == ["fp32"]  # the warning is not on stdout


def test_two_names_of_one_option_with_two_values_are_refused(
    arguments: list[str], bring: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    bring()
    for more in (
        ["--backend", "torch", "--runtime", "onnxruntime"],
        ["--runtime", "onnxruntime", "--backend", "torch"],
    ):
        assert "--backend is the former name of --runtime" in failed([*arguments, *more], 2, capsys)


def test_a_resumed_run_takes_no_backend(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "leave out --backend" in failed(["run", "--resume", str(run), "--backend", "torch"], 2, capsys)


def test_an_unknown_float_runtime_lists_the_known_ones(
    arguments: list[str], bring: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    bring()
    assert "'auto', 'torch', 'onnxruntime'" in failed([*arguments, "--runtime", "openvino"], 2, capsys)


def test_help_names_the_options_for_runtimes_and_hides_the_former_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["run", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--runtime [auto|torch|onnxruntime]" in shown
    assert "--runtimes NAME,NAME" in shown
    assert "--allow-fallback" in shown
    assert "--backend" not in shown

    assert run_command_line(["deploy", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Usage: zoo-eval deploy [OPTIONS] RUN|MODEL" in shown
    for option in ("--runtimes NAME,NAME", "--allow-fallback", "--limit", "--data", "--out", "--json", "--no-report"):
        assert option in shown


def test_the_doctor_lists_runtimes_and_how_to_get_them(bring: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    class Raising(pretending.Second):
        def availability(self) -> Any:
            raise OSError("libsecond.so: cannot open shared object file")

    bring(pretending.Emulator(), pretending.Missing(), Raising())

    assert run_command_line(["doctor"]) == 2

    shown = capsys.readouterr().out
    assert "ok    runtime emulator: 1.0" in shown
    assert "ok    runtime missing: not here: libmissing is not installed. To use it: pip install libmissing" in shown
    assert "FAIL  runtime second: Plugin 'acme' failed in availability of zoo_runtimes: OSError: libsecond" in shown
