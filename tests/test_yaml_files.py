"""Reading YAML: what values become, and how every problem names its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.errors import RecipeError, ZooError
from zoo_core.yaml_files import MAX_BYTES, YamlFile, parse_into, parse_value, read_yaml, to_yaml

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def parse(text: str) -> YamlFile:
    file = YamlFile(path=Path("some.yaml"), error=RecipeError)
    parse_into(file, text)
    return file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-3", -3),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("no", "no"),
        ("true", True),
        ("'true'", "true"),
        ("~", None),
        ("", None),
        ("2007-11-06", "2007-11-06"),
        ("[20, 2]", [20, 2]),
        ("{a: 1}", {"a": 1}),
        ("per_channel_clip", "per_channel_clip"),
    ],
)
def test_a_plain_value_is_what_yaml_1_2_says(text: str, value: object) -> None:
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


@given(json_values)
def test_whatever_is_written_is_read_back(value: object) -> None:
    text = to_yaml(value)  # type: ignore[arg-type]
    assert json.dumps(parse_value(text)) == json.dumps(value)


@given(st.text() | st.text(alphabet="&*[]{}:,-?!|>'\"\n ab1"))
def test_nothing_but_a_zoo_error_escapes_from_any_text(text: str) -> None:
    file = YamlFile(path=Path("some.yaml"), error=RecipeError)
    try:
        parse_into(file, text)
        file.finish()
    except RecipeError as error:
        assert error.fix  # noqa: PT017  # most texts raise, some do not; both are right


def test_a_line_is_known_for_every_key_and_item() -> None:
    file = parse("a: 1\nb:\n  - x: 2\n  -\n    y: 3\n")
    assert file.lines[("a",)] == 1
    assert file.lines[("b", 0, "x")] == 3
    assert file.lines[("b", 1, "y")] == 5


def test_a_duplicate_key_names_both_lines() -> None:
    file = parse("a: 1\nb: 2\na: 3\n")
    with pytest.raises(RecipeError, match=r"some\.yaml:3: a: the key is repeated, first on line 1"):
        file.finish()


def test_a_syntax_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: 1\nb: [1, 2\nc: 3\n")
    with pytest.raises(RecipeError, match=r"broken\.yaml:3: YAML syntax"):
        read_yaml(path, error=RecipeError)


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system ''", "!x {a: 1}"]
)
def test_a_tag_constructs_nothing(text: str) -> None:
    file = parse(f"a: {text}\n")
    assert file.value == {"a": None}
    with pytest.raises(RecipeError, match=r"tag .* is not supported"):
        file.finish()


def test_anchors_are_read_and_their_expansion_is_bounded() -> None:
    assert parse("a: &x {k: 1}\nb: *x\n").value == {"a": {"k": 1}, "b": {"k": 1}}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
    )
    with pytest.raises(RecipeError, match="expands to more than"):
        parse(bomb)


@pytest.mark.parametrize("text", ["&a [*a]", "[" * 100_000, "- " * 100_000 + "x"])
def test_endless_and_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"nested deeper|YAML syntax"):
        parse(text)


@pytest.mark.parametrize("text", [".nan", "1e999", "-.inf", "9" * 5000, "!!bool maybe", "!!float many"])
def test_a_number_that_json_cannot_hold_is_a_problem(text: str) -> None:
    with pytest.raises(RecipeError, match=r"some\.yaml:1: a: the value"):
        parse(f"a: {text}\n").finish()


def test_a_key_that_is_not_text_is_a_problem() -> None:
    with pytest.raises(RecipeError, match=r"some\.yaml:1: the key 2007 is not text\.\n  fix: put the key in quotes"):
        parse("2007: x\n").finish()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.yaml: the file cannot be read: No such file"):
        read_yaml(tmp_path / "absent.yaml", error=RecipeError)
    with pytest.raises(RecipeError, match="cannot be read: it is a directory, not a regular file"):
        read_yaml(tmp_path, error=RecipeError)


def test_a_file_that_is_too_large_or_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match=f"has {MAX_BYTES + 1} bytes"):
        read_yaml(path, error=RecipeError)
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(RecipeError, match="byte 3 is not UTF-8"):
        read_yaml(path, error=RecipeError)


def test_a_value_that_is_not_yaml_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="YAML syntax"):
        parse_value("[1, 2")


def test_several_problems_come_in_the_order_of_lines() -> None:
    file = parse("a: 1\nb: 2\n")
    file.report(("b",), "second", "mend b")
    file.report(("a",), "first", "mend a")
    with pytest.raises(ZooError) as caught:
        file.finish()
    assert caught.value.fact == (
        "some.yaml has 2 problems:\n  some.yaml:1: a: first; mend a.\n  some.yaml:2: b: second; mend b."
    )
