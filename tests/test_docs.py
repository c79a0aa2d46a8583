"""The documentation says what the program does: signatures, parameters, protocols, keys, and every block of code."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from toy_detector import data
from toy_detector import hooks as toy_hooks
from toy_detector.model import untrained
from zoo_aimet_steps.steps import STEPS as PLUGIN_STEPS
from zoo_core import artifacts
from zoo_core.cli.commands import cli
from zoo_core.conformance import CHECKS
from zoo_core.evaluation.run import evaluate_request
from zoo_core.metrics.classification import CLASSIFICATION_PROTOCOLS, ClassificationMetric
from zoo_core.metrics.detection import DETECTION_PROTOCOLS, DetectionMetric
from zoo_core.plugins import PluginHost
from zoo_core.quantization.params import QuantSimParams
from zoo_core.quantization.steps.builtin import BUILTIN_STEPS
from zoo_core.recipes import QUANTSIM, load_recipe
from zoo_core.registry import load_registry
from zoo_core.runs import deployment, part, parts
from zoo_core.runs.record import MetricsRecord, RunRecord
from zoo_core.runs.request import EvaluationRequest

ROOT = Path(__file__).parents[1]
_DEFINED = {kind for module in (part, deployment, parts) for kind in vars(module).values() if is_dataclass(kind)}
PARTS: list[Any] = sorted(_DEFINED - {parts.ScoreRecord}, key=str)
"""``ScoreRecord`` is written in another form: its values lie beside ``per_class``."""
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return [textwrap.dedent(text) for _, text in found]


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of the same or a higher level."""
    text = (DOCS / page).read_text(encoding="utf-8")
    match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,3}} |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert match, f"docs/{page} has no section {heading!r}"
    return match[2]


def first_cells(text: str) -> list[str]:
    """The code spans in the first column of a table."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


# --------------------------------------------------------------------------- hooks


def hook_definitions() -> Iterator[ast.FunctionDef]:
    tree = ast.parse((ROOT / "zoo_core" / "hookspecs.py").read_text(encoding="utf-8"))
    return (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("zoo_"))


HOOKS = {node.name: node for node in hook_definitions()}


def signature(node: ast.FunctionDef) -> str:
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    returns = ast.unparse(node.returns) if node.returns else ""
    return f"@{decorators} def {node.name}({ast.unparse(node.args)}) -> {returns}"


@pytest.mark.parametrize("name", HOOKS)
def test_the_signature_of_a_hook_stands_in_its_section(name: str) -> None:
    code = re.search(r"```python\n(.*?)```", section("hooks.md", name), flags=re.DOTALL)
    assert code
    documented = ast.parse(code[1]).body[0]
    assert isinstance(documented, ast.FunctionDef)
    assert signature(documented) == signature(HOOKS[name])


@pytest.mark.parametrize("name", HOOKS)
def test_a_table_of_arguments_names_them_all(name: str) -> None:
    listed = [cell for cell in first_cells(section("hooks.md", name)) if cell.isidentifier()]
    assert listed == [argument.arg for argument in HOOKS[name].args.args]


def test_the_hooks_page_has_no_hook_that_does_not_exist() -> None:
    headings = re.findall(r"^## (zoo_\w+)$", (DOCS / "hooks.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(headings) == sorted(HOOKS)


# --------------------------------------------------------------------------- recipes and metrics

STEP_PARAMS: dict[str, type[BaseModel]] = {
    **{step.name: step.params for step in (*BUILTIN_STEPS, *PLUGIN_STEPS)},
    QUANTSIM: QuantSimParams,
}


def spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return "null" if value is None else str(value)


@pytest.mark.parametrize("step", STEP_PARAMS)
def test_every_parameter_of_a_step_is_documented_with_its_default(step: str) -> None:
    expected = [
        f"| `{name}` | {'required' if field.is_required() else spelled(field.default)} | {field.description} |"
        for name, field in STEP_PARAMS[step].model_fields.items()
    ]
    rows = [line for line in section("recipes.md", step).splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.split("`")[1] in STEP_PARAMS[step].model_fields] == expected


@pytest.mark.parametrize("protocol", DETECTION_PROTOCOLS)
def test_the_definition_of_a_protocol_is_quoted_word_for_word(protocol: str) -> None:
    quoted = [line[2:] for line in section("metrics.md", protocol).splitlines() if line.startswith("> ")]
    assert " ".join(quoted) == DetectionMetric(["cat"]).compute([protocol])[protocol].definition


@pytest.mark.parametrize("protocol", CLASSIFICATION_PROTOCOLS)
def test_the_definition_of_a_classification_protocol_is_quoted_word_for_word(protocol: str) -> None:
    quoted = [line[2:] for line in section("metrics.md", protocol).splitlines() if line.startswith("> ")]
    assert " ".join(quoted) == ClassificationMetric(["cat"]).compute([protocol])[protocol].definition


# --------------------------------------------------------------------------- the checks of a plugin


def test_every_check_of_a_plugin_is_listed_in_its_order() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", section("checks.md", "The checks"), flags=re.MULTILINE)
    assert rows == ["check", "---", *(check.name for check in CHECKS)]


# --------------------------------------------------------------------------- the run directory


def test_every_key_of_a_run_is_documented(tmp_path: Path) -> None:
    host = PluginHost(installed=False)
    host.register(toy_hooks, "toy_detector")
    weights = tmp_path / "toy.safetensors"
    artifacts.save_state_dict(weights, untrained(2).state_dict(), {})
    request = EvaluationRequest(
        model="toy_squares",
        data=data.write(tmp_path / "grid"),
        checkpoint=weights,
        stages="fp32",
        out=tmp_path / "run",
        workers=0,
    )
    evaluate_request(request, host=host)
    for name, kind in (("run.json", RunRecord), ("metrics.json", MetricsRecord)):
        assert set(first_cells(section("run-directory.md", name))) == {own.name for own in fields(kind)}
    files = {path.relative_to(tmp_path / "run").parts[0] for path in (tmp_path / "run").rglob("*") if path.is_file()}
    listed = {name.split("/")[0] for name in first_cells((DOCS / "run-directory.md").read_text(encoding="utf-8"))}
    toys_own = {"lines", "toy_was_told.json"}  # its submission format and its tracker
    assert files - toys_own <= listed


def test_every_field_of_a_part_is_documented() -> None:
    rows = re.findall(
        r"^\| `\S+` of `\S+` \| `(\w+)` \| (.+) \|$", section("run-directory.md", "Every field"), re.MULTILINE
    )
    documented = {kind: re.findall(r"`(\w+)`", listed) for kind, listed in rows}
    known = {kind.__name__: [own.name for own in fields(kind)] for kind in PARTS}
    known["StageScores"][known["StageScores"].index("scores")] = "metrics"  # its published name
    assert documented == known


# --------------------------------------------------------------------------- every block


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_python_in_a_page_is_valid(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_in_a_page_is_a_recipe_or_a_registry_file(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        if "\nmodels:" in text:
            assert load_registry(path)
        elif "\nsteps:" in text:
            assert load_recipe(path).steps
        elif text.startswith("references:"):
            toy = (ROOT / "tests" / "toy_detector" / "registry.yaml").read_text(encoding="utf-8")
            path.write_text(toy + textwrap.indent(text, "    "), encoding="utf-8")
            assert load_registry(path)["toy_squares"].references


def shown_commands() -> Iterator[tuple[str, str]]:
    for page in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for line in "\n".join([*blocks(page, "console"), *blocks(page, "bash")]).splitlines():
            match = re.search(r"(?:^|/|&& )zoo-eval ([\w-]+)(.*)", line)
            if match:
                yield match[1], match[2]


def test_the_commands_that_are_shown_exist() -> None:
    shown = list(shown_commands())
    assert shown
    for command, arguments in shown:
        help_text = CliRunner().invoke(cli, [command, "--help"])
        assert help_text.exit_code == 0, f"zoo-eval {command}"
        for option in re.findall(r"--[\w-]+", arguments):
            assert option in help_text.output, f"zoo-eval {command} {option}"


def test_the_example_step_runs() -> None:
    import torch

    from zoo_core.datatypes import QuantNetwork

    code = next(code for code in blocks(DOCS / "recipes.md", "python") if "def zoo_recipe_steps" in code)
    names: dict[str, Any] = {}
    exec(compile(code, "recipes.md", "exec"), names)  # noqa: S102  # our own documentation
    (step,) = names["zoo_recipe_steps"]()
    network = torch.nn.Linear(2, 2)
    made = step.apply(QuantNetwork(network=network), step.params(factor=2.0), None)
    assert made.effect == {"factor": 2.0}
    assert torch.equal(made.result.network.weight, 2 * network.weight)


def test_the_picture_of_the_house_names_every_module_on_its_floor() -> None:
    from test_layers import FLOORS

    table = section("architecture.md", "The floors")
    rows = re.findall(r"^\| (\d+) \| `(\w+)(?:/|\.py)` \|", table, flags=re.MULTILINE)
    assert {name: int(floor) for floor, name in rows} == FLOORS


def named_paths(text: str) -> set[str]:
    """Files and folders that a page names from the repository's root."""
    return set(re.findall(r"`((?:zoo_core|plugins|docs|tests)/[\w./-]*)`", text))


def test_the_table_of_where_to_change_what_names_files_that_exist() -> None:
    named = named_paths(section("architecture.md", "Where to change what"))
    assert len(named) >= 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_modules_inside_the_larger_folders_exist() -> None:
    named = first_cells(section("architecture.md", "Inside the larger folders"))
    assert named
    assert [name for name in named if not (ROOT / "zoo_core" / name).exists()] == []


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them from plain text."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower())) for heading in headings}


LINKED = [*PAGES, *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY"))]


@pytest.mark.parametrize(
    "page", [*LINKED, *sorted(ROOT.glob("plugins/*/README.md"))], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_inside_the_repository_lead_to_a_page_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        if name.startswith("https:"):
            continue
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", ["run", "test"])
def test_the_readme_marks_its_two_commands(name: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = re.findall(rf"^<!-- command: {name} -->\n+```bash\n(.+)\n```", text, flags=re.MULTILINE)
    assert len(marked) == 1  # .ci/run takes the second from there
    assert marked[0].startswith("python3 -m venv ")
