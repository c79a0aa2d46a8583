from __future__ import annotations

import pytest

from zoo_core.display import counted, percent, points


@pytest.mark.parametrize(
    ("value", "text"), [(-0.001, "+0.00"), (0.001, "+0.00"), (0.146, "+0.15"), (-1.5, "-1.50"), (None, "-")]
)
def test_a_difference_that_rounds_to_nothing_has_no_minus(value: float | None, text: str) -> None:
    assert points(value) == text


def test_what_is_undefined_is_a_dash_and_never_zero() -> None:
    assert percent(None) == "-"
    assert percent(0.0) == "0.00"
    assert percent(0.123456, digits=4) == "12.3456"


def test_one_thing_is_not_plural() -> None:
    assert [counted(number, "plugin") for number in (0, 1, 2)] == ["0 plugins", "1 plugin", "2 plugins"]
