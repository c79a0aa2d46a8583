"""A run records the program that computed it, and goes on with no other."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from toy_detector import data
from zoo_core import api
from zoo_core.errors import RunError, RunInterruptedError
from zoo_core.evaluation import sources as run_sources
from zoo_core.evaluation.request import SilentReporter
from zoo_core.plugins import PluginHost
from zoo_core.results.reproduce import ReproduceRequest, reproduce
from zoo_core.results.stored import open_run
from zoo_core.results.verify import verify
from zoo_core.runs import provenance
from zoo_core.runs import sources as runs_sources

TOY = Path(data.__file__).parent

STEPS = """
from zoo_core.hookspecs import hookimpl

@hookimpl
def zoo_recipe_steps():
    from other_steps.steps import STEPS
    return STEPS
"""
STEP_CODE = """
from dataclasses import replace
from toy_detector.steps import ROUND_WEIGHTS
STEPS = [replace(ROUND_WEIGHTS, name="round_again")]
"""


class StopsAfterAnImage(SilentReporter):
    """Ctrl-C at the first image of fp32."""

    def __init__(self) -> None:
        self._now = ""

    def start(self, what: str, total: int | None) -> None:
        self._now = what

    def advance(self, num: int) -> None:
        if self._now == "fp32":
            raise KeyboardInterrupt


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The toy plugin as a package of its own that a test may edit, with another plugin that gives a step."""
    folder = tmp_path / "plugins" / "edited_toy"
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*folder.rglob("*.py"), folder / "registry.yaml"]:
        text = path.read_text().replace("from toy_detector", "from edited_toy")
        path.write_text(text.replace("package:toy_detector", "package:edited_toy"))
    other = folder.with_name("other_steps")
    other.mkdir()
    (other / "__init__.py").write_text(STEPS)
    (other / "steps.py").write_text(STEP_CODE)
    monkeypatch.syspath_prepend(folder.parent)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("edited_toy", "other_steps")]:
        del sys.modules[name]


@pytest.fixture
def edited(plugin: Path) -> PluginHost:
    host = PluginHost(installed=False)
    host.register(importlib.import_module("edited_toy.hooks"), "toy_detector")
    host.register(importlib.import_module("other_steps"), "other_steps")
    return host


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    text = (TOY / "recipes" / "w8a8_toy.yaml").read_text()
    path = tmp_path / "own.yaml"
    path.write_text(text.replace("- step: round_weights", "- step: round_again"))
    return path


Start = Callable[..., Path]


@pytest.fixture
def start(edited: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> Start:
    """Starts a run that is interrupted, and returns its directory."""

    def run(**options: Any) -> Path:
        given = {"data": grid, "checkpoint": weights, "out": tmp_path / "run", "stages": "fp32", **options}
        with pytest.raises(RunInterruptedError):
            api.evaluate("toy_squares", host=edited, reporter=StopsAfterAnImage(), **given)
        return tmp_path / "run"

    return run


def record(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "run.json").read_text())
    return content


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_a_run_names_zoo_eval_the_owner_the_entry_and_the_plugins_whose_steps_it_takes(
    start: Start, edited: PluginHost, recipe: Path, tmp_path: Path
) -> None:
    listed = record(start())["sources"]
    assert sorted(listed) == ["registry entry", "toy_detector", "zoo-eval"]
    assert listed["zoo-eval"]["distribution"] == "zoo-eval"
    assert all(len(source["sha256"]) == 64 for source in listed.values())

    with_step = record(start(recipe=str(recipe), out=tmp_path / "run2").with_name("run2"))["sources"]
    assert sorted(with_step) == ["other_steps", "registry entry", "toy_detector", "zoo-eval"]


@pytest.mark.parametrize("file", ["model.py", "recipes/w8a8_toy.yaml"])
def test_a_run_does_not_go_on_with_an_edited_plugin(file: str, start: Start, edited: PluginHost, plugin: Path) -> None:
    run = start()
    before = (run / "run.json").read_bytes()
    append(plugin / file, "\n# edited\n")

    with pytest.raises(RunError, match=r"\n  sources: toy_detector sources [0-9a-f]{12} instead of sources [0-9a-f]"):
        api.resume(run, host=edited)

    assert (run / "run.json").read_bytes() == before


def test_a_run_does_not_go_on_with_an_edited_plugin_that_only_gave_a_step(
    start: Start, edited: PluginHost, plugin: Path, recipe: Path
) -> None:
    run = start(recipe=str(recipe))
    append(plugin.with_name("other_steps") / "steps.py", "\n# edited\n")

    with pytest.raises(RunError, match="sources: other_steps sources"):
        api.resume(run, host=edited)


def test_another_plugin_may_change(start: Start, edited: PluginHost, plugin: Path) -> None:
    run = start()
    append(plugin.with_name("other_steps") / "steps.py", "\n# edited\n")

    assert api.resume(run, host=edited, report=False).record.status == "complete"


def test_a_run_does_not_go_on_without_a_plugin_that_took_part(
    start: Start, edited: PluginHost, plugin: Path, recipe: Path
) -> None:
    run = start(recipe=str(recipe))
    alone = PluginHost(installed=False)
    alone.register(sys.modules["edited_toy.hooks"], "toy_detector")

    with pytest.raises(RunError, match="sources: other_steps none instead of sources"):
        api.resume(run, host=alone)


def test_a_run_does_not_go_on_with_an_edited_zoo_eval(
    start: Start, edited: PluginHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = start()
    copy = tmp_path / "changed" / "zoo_core"
    shutil.copytree(Path(run_sources.__file__).parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "registry.yaml").write_text("models: {}")  # as in a wheel
    same, roots = record(run)["sources"]["zoo-eval"]["sha256"], runs_sources._roots
    moved = {("zoo_core", copy)}
    monkeypatch.setattr(runs_sources, "_roots", lambda name: moved if name == "zoo_core.plugins" else roots(name))
    here = run_sources.sources_here(edited, [], None)["zoo-eval"]
    assert here.sha256 == same, "the place of zoo-eval does not matter"
    append(copy / "inference.py", "\n# edited, not committed\n")

    with pytest.raises(RunError, match=r"\n  sources: zoo-eval \S+ with sources [0-9a-f]{12} instead of"):
        api.resume(run, host=edited)


class Installed:
    """Distribution with a version that a test sets."""

    name = "toy-plugin"
    version = "1.0"
    requires = ("some-decoder>=1; python_version>'3'", "zoo-eval", "not a requirement!!")


@pytest.fixture
def upgraded(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions of the toy's distribution and of a library that it requires."""
    versions = {"some-decoder": "4.0"}
    installed = provenance.installed_version
    monkeypatch.setattr(provenance, "installed_version", lambda name: versions.get(name) or installed(name))

    def distribution(_host: PluginHost, plugin_id: str) -> Any:
        made = Installed()
        made.version = versions.get("toy-plugin", "1.0")
        return made if plugin_id == "toy_detector" else None

    monkeypatch.setattr(PluginHost, "distribution", distribution)
    return versions


def test_distribution_and_version_of_a_plugin_and_of_what_it_requires_are_recorded(
    upgraded: dict[str, str], start: Start
) -> None:
    content = record(start())
    source = content["sources"]["toy_detector"]
    assert (source["distribution"], source["version"]) == ("toy-plugin", "1.0")
    assert content["environment"]["packages"]["some-decoder"] == "4.0"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("toy-plugin", "sources: toy_detector 2.0 with sources .* instead of 1.0 with"),
        ("some-decoder", "libraries: some-decoder 2.0 instead of 4.0"),
    ],
)
def test_a_run_does_not_go_on_with_an_upgraded_plugin_or_library_of_it(
    name: str, words: str, upgraded: dict[str, str], start: Start, edited: PluginHost
) -> None:
    run = start()
    upgraded[name] = "2.0"

    with pytest.raises(RunError, match=words):
        api.resume(run, host=edited)


def test_a_run_does_not_go_on_with_another_registry_entry(
    edited: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text((TOY / "registry.yaml").read_text().replace("toy_squares:", "own_squares:"))
    host = PluginHost(installed=False, registries=[file])
    host.register(sys.modules["edited_toy.hooks"], "toy_detector")
    with pytest.raises(RunInterruptedError):
        api.evaluate(
            "own_squares",
            host=host,
            reporter=StopsAfterAnImage(),
            data=grid,
            checkpoint=weights,
            out=tmp_path / "run",
            stages="fp32",
        )
    append(file, "    options:\n      width: 2\n")

    with pytest.raises(RunError, match="sources: registry entry sources"):
        api.resume(tmp_path / "run", host=edited)


def test_a_plugin_without_a_file_is_recorded_without_a_hash(edited: PluginHost, plugin: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "typed_in"}
    exec(STEPS, namespace)  # noqa: S102 - as a notebook does
    holder = type("Holder", (), {"zoo_recipe_steps": staticmethod(namespace["zoo_recipe_steps"])})()
    host = PluginHost(installed=False)
    host.register(holder, "typed_in")

    assert run_sources.sources_here(host, ["typed_in"], None)["typed_in"].sha256 is None


class EditsDuringTheRun(SilentReporter):
    """Changes a file once the run reads images."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, what: str, total: int | None) -> None:
        if what == "fp32":
            append(self._path, "\n# edited\n")


def test_an_edit_while_the_run_computes_is_a_warning(
    edited: PluginHost, plugin: Path, grid: Path, weights: Path, tmp_path: Path
) -> None:
    reporter = EditsDuringTheRun(plugin / "model.py")
    given: dict[str, Any] = {"data": grid, "checkpoint": weights, "out": tmp_path / "run", "stages": "fp32"}
    result = api.evaluate("toy_squares", host=edited, reporter=reporter, report=False, **given)

    words = "The sources of plugin toy_detector changed while the run was computing; it may mix both."
    assert result.record.warnings == (words,)
    assert result.metrics is not None
    assert result.metrics.warnings == (words,)


# --------------------------------------------------------------------------- kernels


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATEN_CPU_CAPABILITY", "default"),
        ("ONEDNN_MAX_CPU_ISA", "SSE41"),
        ("DNNL_MAX_CPU_ISA", "SSE41"),
        ("MKL_ENABLE_INSTRUCTIONS", "SSE4_2"),
        ("MKL_CBWR", "COMPATIBLE"),
        ("NVIDIA_TF32_OVERRIDE", "1"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"),
        ("OPENCV_IPP", "disabled"),
        ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2"),
    ],
)
def test_a_run_does_not_go_on_when_a_variable_selects_other_kernels(
    name: str, value: str, start: Start, edited: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name, raising=False)
    run = start()
    monkeypatch.setenv(name, value)

    words = f"environment variables that select kernels: {name} {value} instead of none"
    with pytest.raises(RunError, match=words):
        api.resume(run, host=edited)


def test_a_run_does_not_go_on_when_its_kernel_variable_is_gone(
    start: Start, edited: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    run = start()
    monkeypatch.delenv("MKL_CBWR")

    with pytest.raises(RunError, match="select kernels: MKL_CBWR none instead of AVX2"):
        api.resume(run, host=edited)


@pytest.fixture
def restored() -> Iterator[None]:
    precision, enabled = torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.mkldnn.enabled = enabled


@pytest.mark.usefixtures("restored")
def test_a_run_does_not_go_on_with_other_settings_of_torch(start: Start, edited: PluginHost) -> None:
    run = start()
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a property of the module

    words = "settings of torch: float32 matmul precision medium instead of highest, mkldnn False instead of True"
    with pytest.raises(RunError, match=words):
        api.resume(run, host=edited)


def test_another_instruction_set_is_a_warning_like_another_processor(
    start: Start, edited: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start()
    monkeypatch.setattr(provenance, "_cpu_capability", lambda: "SPARC")

    (text,) = api.resume(run, host=edited, report=False).record.warnings
    assert text.startswith("The run was resumed on another instruction set of torch's kernels: SPARC instead of")


# --------------------------------------------------------------------------- verify and reproduce


def test_verify_and_reproduce_name_a_plugin_that_was_edited_since(
    edited: PluginHost, plugin: Path, grid: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    api.evaluate(
        "toy_squares", host=edited, data=grid, checkpoint=weights, out=run, stages="fp32", report=False, workers=0
    )
    (check,) = [check for check in verify(open_run(run), edited) if check.what == "sources"]
    assert (check.state, check.message) == ("holds", "3 hashes are those of the run")

    append(plugin / "model.py", "\n# edited\n")
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    (check,) = [check for check in verify(open_run(run), edited) if check.what == "sources"]
    assert check.state == "stale"
    assert check.message.startswith("the sources of plugin toy_detector have changed since: sources ")

    found = reproduce(ReproduceRequest(run=run, out=tmp_path / "again"), edited, SilentReporter())
    assert any("sources of plugin toy_detector have changed" in text for text in found.conditions)
    assert "environment variables that select kernels: MKL_CBWR AVX2 instead of none" in found.conditions


# --------------------------------------------------------------------------- git


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_a_repository_around_the_installation_is_not_ours(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    ours = tmp_path / ".venv" / "lib" / "zoo_core" / "starting.py"
    ours.parent.mkdir(parents=True)
    ours.write_text("")
    (tmp_path / "theirs.py").write_text("")
    git(tmp_path, "add", "theirs.py")
    git(tmp_path, "commit", "-q", "-m", "theirs")
    assert provenance.git_state(ours) is None

    git(tmp_path, "add", "-f", str(ours))
    git(tmp_path, "commit", "-q", "-m", "ours")
    state = provenance.git_state(ours)
    assert state is not None
    assert (state.commit, state.dirty) == (git(tmp_path, "rev-parse", "HEAD"), False)
    ours.write_text("# edited")
    state = provenance.git_state(ours)
    assert state is not None
    assert state.dirty


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_run_in_a_git_hook_does_not_name_the_repository_of_the_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
        git(tmp_path / name, "init", "-q")
        (tmp_path / name / "starting.py").write_text("")
        git(tmp_path / name, "add", "starting.py")
        git(tmp_path / name, "commit", "-q", "-m", name)
    commits = {name: git(tmp_path / name, "rev-parse", "HEAD") for name in ("theirs", "ours")}
    assert commits["theirs"] != commits["ours"]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))

    state = provenance.git_state(tmp_path / "ours" / "starting.py")

    assert state is not None
    assert state.commit == commits["ours"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "starting.py").write_text("")
    assert provenance.git_state(tmp_path / "elsewhere" / "starting.py") is None
