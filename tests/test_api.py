"""The tool from Python: what `import zoo_core` offers, and that the documented calls work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import zoo_core
from toy_detector import data
from toy_detector import hooks as toy_detector
from toy_detector.model import untrained
from zoo_core import artifacts
from zoo_core.errors import RunError
from zoo_core.plugins import PluginHost

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")


def test_every_public_function_is_documented() -> None:
    documented = set(re.findall(r"^\| `zoo_core\.(\w+)\(", PAGE, flags=re.MULTILINE))
    assert documented == set(zoo_core.__all__) - {"__version__", "hookimpl"}
    assert all(callable(getattr(zoo_core, name)) for name in documented)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    host = PluginHost(installed=False)
    host.register(toy_detector, "toy_detector")
    monkeypatch.setattr("zoo_core.api.PluginHost", lambda: host)
    return host


def test_the_documented_calls_work_on_a_run(host: PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts.save_state_dict(tmp_path / "toy.safetensors", untrained(2).state_dict(), {})
    grid = data.write(tmp_path / "grid")
    options: dict[str, Any] = {"data": str(grid), "checkpoint": "toy.safetensors", "stages": "fp32,w8a8", "workers": 0}
    made = zoo_core.evaluate("toy_squares", report=False, **options).run_dir

    (code,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "reproduce" in code]
    names: dict[str, object] = {}
    exec(compile(code, "docs/python.md", "exec"), names)  # noqa: S102 - our own documentation

    assert names["newest"].path.resolve() == made  # type: ignore[attr-defined]
    verdict = zoo_core.check(str(made))
    assert not verdict.passed  # the toy has no reference
    assert "nothing was checked" in verdict.obstacles[-1]


def test_a_run_that_is_not_there_is_named(host: PluginHost, tmp_path: Path) -> None:
    for call in (zoo_core.check, zoo_core.verify, zoo_core.compare, zoo_core.reproduce):
        with pytest.raises(RunError, match=r"holds no run\.json"):
            call(tmp_path)
