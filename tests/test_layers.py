"""The house stands as docs/architecture.md draws it: imports point down, and cheap modules stay cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "zoo_core"

TOP = "__init__"
"""The package ``zoo_core`` itself, which stands beside its modules here."""

FLOORS = {
    TOP: 11,
    "cli": 11,
    "api": 10,
    "results": 9,
    "conformance": 9,
    "scaffold": 9,
    "evaluation": 8,
    "report": 8,
    "plugins": 7,
    "inference": 6,
    "quantization": 6,
    "runtimes": 5,
    "tasks": 6,
    "defaults": 6,
    "comparison": 5,
    "metrics": 4,
    "datasets": 4,
    "runs": 3,
    "registry": 4,
    "recipes": 4,
    "artifacts": 4,
    "guards": 4,
    "hookspecs": 4,
    "datatypes": 2,
    "yaml_files": 2,
    "boxes": 1,
    "errors": 1,
    "locks": 2,
    "onnx_export": 2,
    "files": 1,
    "display": 1,
    "version": 1,
}
"""Folder or module of the core to its floor; a new one is entered here and drawn in docs/architecture.md."""

GUEST_FLOOR = 4
"""The highest floor that a plugin may import ..."""

STEP_SUPPORT = {
    f"quantization.{name}" for name in ("aimet.library", "aimet.quantsim", "graph.probe_image", "graph.relative_change")
}
"""... and what a plugin that brings steps may import besides: a step must measure with the simulation that the run ends
in, and AIMET must be loaded, silenced and told of foreign modules in one way."""


def core_modules() -> dict[str, Path]:
    """Dotted name below ``zoo_core`` to file; packages by their folder's name."""
    modules = {}
    for path in sorted(CORE.rglob("*.py")):
        parts = path.relative_to(CORE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name or TOP] = path
    return modules


def core_imports(path: Path) -> Iterator[str]:
    """Names that a file imports from the core, dotted below ``zoo_core``, inside functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.partition(".")[2] or TOP for name in names if name.partition(".")[0] == "zoo_core")


def owner(dotted: str) -> str:
    """The folder or module that a dotted name belongs to; ``TOP`` for names of ``zoo_core`` itself."""
    first = dotted.partition(".")[0]
    return first if first in FLOORS else TOP


def test_every_module_has_a_floor() -> None:
    assert {name.partition(".")[0] for name in core_modules()} <= set(FLOORS)


def test_imports_point_down() -> None:
    wrong = []
    for name, path in core_modules().items():
        here = owner(name)
        for imported in core_imports(path):
            there = owner(imported)
            if there != here and FLOORS[there] >= FLOORS[here]:
                wrong.append(f"{name} (floor {FLOORS[here]}) imports {imported} (floor {FLOORS[there]})")
    assert wrong == []


def test_modules_of_one_folder_import_each_other_without_a_circle() -> None:
    modules = core_modules()
    graph = {
        name: {target for imported in core_imports(path) if (target := nearest(imported, modules)) != name}
        for name, path in modules.items()
    }
    assert find_circle(graph) is None


def nearest(dotted: str, modules: dict[str, Path]) -> str:
    """The module that an imported name lives in: ``metrics.voc.score`` is in ``metrics.voc``."""
    while dotted and dotted not in modules:
        dotted = dotted.rpartition(".")[0]
    return dotted or TOP


def find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str] | None:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return None
        for target in sorted(graph[name]):
            circle = walk(target, [*trail, name])
            if circle:
                return circle
        done.add(name)
        return None

    return next((circle for name in sorted(graph) if (circle := walk(name, []))), None)


def test_a_circle_would_be_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_plugins_import_the_lower_floors_alone() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {imported}"
        for path in sorted((ROOT / "plugins").rglob("*.py"))
        for imported in core_imports(path)
        if FLOORS[owner(imported)] > GUEST_FLOOR
        if not (path.parent.name in STEP_PLUGINS and imported in STEP_SUPPORT)
    ]
    assert wrong == []


def test_the_core_imports_no_plugin() -> None:
    guests = {path.name for path in (ROOT / "plugins").iterdir() if path.is_dir()}
    wrong = []
    for name, path in core_modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{name} imports {found}" for found in imported if found.partition(".")[0] in guests]
    assert wrong == []


STEP_PLUGINS = {"zoo_aimet_steps"}
"""The plugins whose purpose is steps; only they import AIMET, and inside the functions that apply a step."""


def test_only_plugins_of_steps_import_aimet() -> None:
    users = {
        path.relative_to(ROOT / "plugins").parts[0]
        for path in (ROOT / "plugins").rglob("*.py")
        if "aimet_torch" in imported_packages(path)
    }
    assert users == STEP_PLUGINS


def test_one_module_of_the_core_imports_aimet() -> None:
    users = [name for name, path in core_modules().items() if "aimet_torch" in imported_packages(path)]
    assert users == ["quantization.aimet.library"]


def imported_packages(path: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "").partition(".")[0])
    return packages


@pytest.mark.parametrize(
    "statement",
    [
        "import zoo_core; zoo_core.__version__",
        "import zoo_core.hookspecs",
        "import zoo_core.datatypes",
        "import ssd_mobilenetv2_lite.hooks",
        "import zoo_torchvision_classification.hooks",
        "import zoo_aimet_steps.hooks",
        "import zoo_torchvision_detection.hooks",
        "import zoo_efficientnet_lite.hooks",
        "import zoo_mlflow_tracker.hooks",
        "import zoo_runtime_openvino.hooks; zoo_runtime_openvino.hooks.zoo_runtimes()",
        "import zoo_runtime_qnn_htp.hooks; zoo_runtime_qnn_htp.hooks.zoo_runtimes()[0].availability()",
        "from zoo_core.registry import *; load_registry(builtin_registry())",
        "from zoo_core.cli.main import main; main(['--help'])",
        "from zoo_core.cli.main import main; main(['list'])",
    ],
)
def test_what_answers_at_once_loads_no_framework(statement: str) -> None:
    program = (
        "import sys\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'plugins')!r}]\n"
        f"try:\n    exec({statement!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'numpy', 'torchvision', 'aimet_torch', 'cv2', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)  # noqa: S603  # our own interpreter and program
    assert done.returncode == 0, done.stderr
