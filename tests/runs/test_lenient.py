from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoo_core.runs.directory import SCHEMA
from zoo_core.runs.facts import Facts, joined, percent, points, read_facts


def test_a_value_of_the_right_kind_is_given_and_leaves_no_gap() -> None:
    gaps: list[str] = []
    facts = Facts({"t": "x", "n": 2, "f": True, "o": {"a": 1}, "l": ["a"], "i": [{"a": 1}]}, "run.json", gaps)

    assert (facts.text("t"), facts.number("n"), facts.flag("f")) == ("x", 2, True)
    assert facts.object("o").number("a") == 1
    assert facts.texts("l") == ["a"]
    assert [item.number("a") for item in facts.items("i")] == [1]
    assert gaps == []


@pytest.mark.parametrize(
    ("value", "gap"),
    [
        ("3", "run.json.n is a text, not a number."),
        (True, "run.json.n is true or false, not a number."),
        ([3], "run.json.n is a list, not a number."),
        (float("nan"), "run.json.n is a number, not a number."),
    ],
)
def test_a_value_of_the_wrong_kind_is_none_and_a_gap(value: Any, gap: str) -> None:
    gaps: list[str] = []

    assert Facts({"n": value}, "run.json", gaps).number("n") is None
    assert gaps == [gap.replace("a number, not a number", "a number that is not finite")]


def test_what_is_absent_is_a_gap_only_where_it_is_needed() -> None:
    gaps: list[str] = []
    facts = Facts({"null": None}, "run.json", gaps)

    assert facts.text("a") is None
    assert facts.text("null") is None
    assert gaps == []
    assert facts.text("a", needed=True) is None
    assert gaps == ["run.json.a is missing."]


def test_a_gap_is_noted_once() -> None:
    gaps: list[str] = []
    facts = Facts({"n": "x"}, "run.json", gaps)

    facts.number("n")
    facts.number("n")

    assert len(gaps) == 1


def test_members_that_are_no_objects_are_left_out_and_named() -> None:
    gaps: list[str] = []
    facts = Facts({"stages": {"fp32": {"a": 1}, "w8a8": 3}, "steps": [{}, None], "ids": ["a", 1]}, "run.json", gaps)

    assert list(facts.objects("stages")) == ["fp32"]
    assert len(facts.items("steps")) == 1
    assert facts.texts("ids") == ["a"]
    assert gaps == [
        "run.json.stages.w8a8 is a number, not an object.",
        "run.json.steps[1] is null, not an object.",
        "run.json.ids holds 1 values that are no text.",
    ]


def test_a_file_of_this_schema_is_read_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"schema": SCHEMA, "model": "m"}))
    gaps: list[str] = []

    facts = read_facts(path, gaps)

    assert facts is not None
    assert facts.text("model") == "m"
    assert gaps == []


def test_a_file_that_is_no_text_is_a_gap_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"\xff\xfe\x00")
    gaps: list[str] = []

    assert read_facts(path, gaps) is None
    assert gaps[0].startswith("run.json cannot be read:")


def test_numbers_in_print() -> None:
    assert percent(0.12345) == "12.35"
    assert percent(None) == "\N{EN DASH}"
    assert points(-0.5) == "\N{MINUS SIGN}0.50"
    assert points(0.0) == points(-0.0) == points(-0.004) == "+0.00"
    assert joined(["a", "b", "c"], 2) == "a, b and 1 more"
