"""The heat map of the demo."""

from __future__ import annotations

import pytest

from grace_st.cli.heatmap import heatmap, heatmap_width

MATRIX = [[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]]
NAMES = {"row_names": ["Q1", "Q2"], "column_names": ["D1", "D2", "D3"]}


def test_numbers_shades_and_markers_are_in_place() -> None:
    lines = heatmap(MATRIX, **NAMES, marked={0: 1, 1: 0}, colour=False).plain.split("\n")
    assert [line.split() for line in lines] == [
        ["D1", "D2", "D3"],
        ["Q1", "10", "█90*", "▒50"],
        ["Q2", "░30*", "20", "10"],
    ]
    assert all(len(line) == heatmap_width(**NAMES) for line in lines)


def test_ascii_shades_for_terminals_without_unicode() -> None:
    shown = heatmap(MATRIX, **NAMES, marked={}, colour=False, unicode=False).plain
    assert shown.isascii()
    assert "#90" in shown


def test_colour_replaces_the_shades_and_grows_with_the_value() -> None:
    drawn = heatmap(MATRIX, **NAMES, marked={}, colour=True)
    assert not set("░▒▓█") & set(drawn.plain)
    backgrounds = [span.style.bgcolor.triplet for span in drawn.spans if getattr(span.style, "bgcolor", None)]
    brightness = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in backgrounds]
    values = [value for row in MATRIX for value in row]
    assert sorted(range(6), key=lambda i: (values[i], i)) == sorted(range(6), key=lambda i: (brightness[i], i))


def test_a_text_is_not_compared_with_itself() -> None:
    lines = heatmap(
        [[1.0, 0.4], [0.4, 1.0]],
        row_names=["T1", "T2"],
        column_names=["T1", "T2"],
        marked={},
        skip_diagonal=True,
        colour=False,
    ).plain.split("\n")
    assert "100" not in "".join(lines)
    assert lines[1].split()[1] == "-"


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_equal_values_and_extremes_keep_the_columns_aligned(value: float) -> None:
    lines = heatmap([[value]], row_names=["Q"], column_names=["D"], marked={0: 0}, colour=False).plain.split("\n")
    assert len(lines[0]) == len(lines[1])
