from __future__ import annotations

from zoo_core.errors import closest, closest_hint


def test_an_unknown_name_suggests_the_closest() -> None:
    assert closest_hint("w8a9", ["fp32", "w8a8"]) == "; the closest is 'w8a8'"


def test_a_name_like_no_other_suggests_nothing() -> None:
    assert closest("xyz", ["fp32", "w8a8"]) is None
    assert closest_hint("xyz", ["fp32", "w8a8"]) == ""


def test_a_short_name_finds_what_it_abbreviates_where_any_likeness_counts() -> None:
    assert closest("w8", ["mixed_precision_w8a8_with_cross_layer_equalization"]) is None
    assert closest("w8", ["mixed_precision_w8a8_with_cross_layer_equalization"], cutoff=0.0) is not None
