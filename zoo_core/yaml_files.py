"""Reads YAML files with line numbers, and reports all problems of a file in one error.

Values are those of JSON: mappings with text keys, lists, text, numbers, true, false and null, spelled as in YAML 1.2's
core schema. So ``1e-4`` is a number, and ``no`` and ``2007-11-06`` are text. Anchors are allowed, and the values that
they expand to are counted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import yaml

from zoo_core.errors import ZooError, closest
from zoo_core.files import read_regular_file

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
KeyPath: TypeAlias = "tuple[str | int, ...]"

MAX_BYTES = 4 * 2**20
MAX_VALUES = 200_000
MAX_DEPTH = 40
"""Limits on file size, on values after expanding anchors, and on nesting; far above hand-written files."""

_CORE_SCHEMA = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:null|Null|NULL|~|)$"), [*"nN~", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), [*"tTfF"]),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$"), [*"-+0123456789"]),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"
            r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
        ),
        [*"-+.0123456789"],
    ),
)

if TYPE_CHECKING:
    _SafeLoader = yaml.SafeLoader
else:
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # not every build of PyYAML has libyaml


class _Loader(_SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  # declared so in PyYAML; resolvers are added below


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1, 1.2 or both would read as something else."""


for _tag, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Only double quotes keep characters that YAML 1.1 treats as line breaks; the dumper would fold them into spaces.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Problem in a file: its place, the fact and the fix."""

    place: str
    fact: str
    fix: str


@dataclass(slots=True, kw_only=True)
class YamlFile:
    """Parsed file, and the problems found in it so far.

    Attributes:
        path: As given by the caller.
        error: The error class to raise.
        value: The file's content.
        lines: 1-based line of each key and list item, by key path.
        problems: Line and problem, in the order found.
    """

    path: Path
    error: type[ZooError]
    value: Json = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[int, Problem]] = field(default_factory=list)

    def report(self, key: KeyPath, fact: str, fix: str, *, line: int | None = None) -> None:
        """Add a problem with the value at ``key``; a missing key is reported at its nearest parent's line."""
        parent = key
        while parent and parent not in self.lines:
            parent = parent[:-1]
        line = line or self.lines.get(parent, 1)
        name = format_key(key)
        place = f"{self.path}:{line}: {name}" if name else f"{self.path}:{line}"
        self.problems.append((line, Problem(place=place, fact=fact, fix=fix)))

    def finish(self) -> None:
        """Raise one error with all problems in line order; do nothing if there are none."""
        ordered = [problem for _, problem in sorted(self.problems, key=lambda item: item[0])]
        raise_together(ordered, self.error, what=str(self.path))

    def mapping(self, known: Iterable[str], required: Iterable[str]) -> dict[str, Json]:
        """Return the content as a mapping and report unknown and missing keys; empty if it is not a mapping."""
        if not isinstance(self.value, dict):
            self.report((), f"expected a mapping, got {describe(self.value)}", f"write a mapping with {_listed(known)}")
            return {}
        check_keys(self, (), self.value, known, required)
        return self.value

    def check_schema(self, newest: int) -> None:
        """Report a schema version that is not a number; reject a newer version immediately.

        Raises:
            ZooError: The version is newer than ``newest``; other problems of such a file would only mislead.
        """
        if not isinstance(self.value, dict) or "schema" not in self.value:
            return  # a missing key is reported with the other keys
        version = self.value["schema"]
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            self.report(("schema",), f"the value {show(version)} is not a schema version", f"write schema: {newest}")
        elif version > newest:
            self.problems.clear()
            self.report(
                ("schema",),
                f"the file has schema {version}; this zoo-eval reads up to schema {newest}",
                "upgrade zoo-eval, or use the file's older form",
            )
            self.finish()


def read_yaml(path: Path, *, error: type[ZooError]) -> YamlFile:
    """Parse a file; duplicate keys and values outside JSON are reported in ``problems``.

    Args:
        path: The file.
        error: The error class to raise, here and in ``finish``.

    Raises:
        ZooError: The file cannot be read, is not UTF-8 or not YAML, or exceeds a limit.
    """
    try:
        content = read_regular_file(path, max_bytes=MAX_BYTES)
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise error(f"{path}: the file cannot be read: {reason}.", fix="give the path of a readable file.") from cause
    file = YamlFile(path=path, error=error)
    try:
        parse_into(file, content.decode("utf-8-sig"))
    except UnicodeDecodeError as cause:
        fact = f"{path}: byte {cause.start} is not UTF-8."
        raise error(fact, fix="save the file as UTF-8.") from cause
    return file


def parse_into(file: YamlFile, text: str) -> None:
    """Fill ``file`` from text; see ``read_yaml``."""
    try:
        _check_depth(file, text)
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError as cause:
        mark = getattr(cause, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        what = getattr(cause, "problem", None) or getattr(cause, "reason", None) or "not YAML"
        raise file.error(
            f"{file.path}{line}: YAML syntax: {what}.",
            fix="correct the line: indent by spaces, quote text.",
        ) from cause
    file.lines[()] = 1
    file.value = None if node is None else _Builder(file).build(node, ())


def _check_depth(file: YamlFile, text: str) -> None:
    # Before composing: the composer recurses, and libyaml's binding then crashes instead of raising an exception.
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                _refuse(file, _line(event), f"values are nested deeper than {MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _line(item: Any) -> int:
    """Return the 1-based line of an event or a node; both always have a mark when they come from text."""
    return int(item.start_mark.line) + 1


def _refuse(file: YamlFile, line: int, fact: str) -> NoReturn:
    raise file.error(f"{file.path}:{line}: {fact}.", fix="flatten the file, or write it without anchors.")


class _Builder:
    """Turns nodes into values and counts them after expanding anchors."""

    def __init__(self, file: YamlFile) -> None:
        self.file = file
        self.num_values = 0

    def build(self, node: yaml.Node, key: KeyPath) -> Json:
        self.num_values += 1
        line = _line(node)
        if self.num_values > MAX_VALUES:
            _refuse(self.file, line, f"the file expands to more than {MAX_VALUES} values")
        if len(key) > MAX_DEPTH:
            _refuse(self.file, line, f"values are nested deeper than {MAX_DEPTH}")
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return self._sequence(node, key)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        self.file.report(key, f"the tag {node.tag} is not supported", "write a plain mapping or list")
        return None

    def _mapping(self, node: yaml.MappingNode, key: KeyPath) -> Json:
        result: dict[str, Json] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                text = key_node.value if isinstance(key_node, yaml.ScalarNode) else "made of several values"
                self.file.report(key, f"the key {text} is not text", "put the key in quotes", line=line)
                continue
            name = str(key_node.value)
            inner = (*key, name)
            if name in result:
                fact = f"the key is repeated, first on line {self.file.lines[inner]}"
                self.file.report(inner, fact, "remove one of the two", line=line)
                continue
            self.file.lines[inner] = line
            result[name] = self.build(value_node, inner)
        return result

    def _sequence(self, node: yaml.SequenceNode, key: KeyPath) -> Json:
        result: list[Json] = []
        for index, item in enumerate(node.value):
            inner = (*key, index)
            self.file.lines[inner] = _line(item)
            result.append(self.build(item, inner))
        return result

    def _scalar(self, node: yaml.ScalarNode, key: KeyPath) -> Json:
        try:
            return _scalar(node.tag, node.value)
        except ValueError as cause:
            self.file.report(key, f"the value {show(node.value)} {cause}", "write text in quotes, or a plain number")
            return None


def _scalar(tag: str, text: str) -> Json:
    kind = tag.removeprefix("tag:yaml.org,2002:")
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and len(text) < 400:
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if kind == "float":
        number = float(text)
        if math.isfinite(number):
            return number
        raise ValueError("is not a finite number")
    raise ValueError(f"has the tag {tag}, which is not supported")


def parse_value(text: str) -> Json:
    """Parse one value as in a YAML file: number, true, null, text, ``[list]`` or ``{mapping}``.

    Raises:
        ValueError: The text is not such a value; the message gives the reason.
    """
    file = YamlFile(path=Path("value"), error=ZooError)
    try:
        parse_into(file, text)
        file.finish()
    except ZooError as cause:
        raise ValueError(cause.fact) from cause
    return file.value


def to_yaml(value: Json) -> str:
    """Write a value so that ``read_yaml`` returns it unchanged, keys in the given order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


# --------------------------------------------------------------------------- messages


def raise_together(problems: list[Problem], error: type[ZooError], *, what: str) -> None:
    """Raise one error for all problems; do nothing if there are none."""
    if not problems:
        return
    if len(problems) == 1:
        problem = problems[0]
        raise error(f"{problem.place}: {problem.fact}.", fix=f"{problem.fix}.")
    lines = [f"  {p.place}: {p.fact}; {p.fix}." for p in problems]
    raise error("\n".join([f"{what} has {len(problems)} problems:", *lines]), fix="correct each of the places above.")


def check_keys(
    file: YamlFile, key: KeyPath, value: Mapping[str, Any], known: Iterable[str], required: Iterable[str]
) -> None:
    """Report the keys of the mapping at ``key`` that are unknown, with the closest known one, or missing."""
    names = list(known)
    for name in value:
        if name not in names:
            near = closest(name, names)
            fix = f"write {near!r}" if near else f"remove it; known here are {_listed(names)}"
            file.report((*key, name), "no such key", fix)
    for name in required:
        if name not in value:
            file.report((*key, name), "the key is missing", "add it")


def format_key(key: KeyPath) -> str:
    """Return ``models.a.references[0].value`` for a key path."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def show(value: object) -> str:
    """Format a value for a message: JSON, cut at 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def describe(value: Json) -> str:
    """Return the kind of a value, followed by the value if it is a scalar."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return f"{show(value)}"
    kind = "the text" if isinstance(value, str) else "the number"
    return f"{kind} {show(value)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
