"""A matrix of cosines as a heat map in the terminal, readable with and without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text

SHADES = (" ", "░", "▒", "▓", "█")
ASCII_SHADES = (" ", ".", ":", "+", "#")
CELL_WIDTH = 5  # shade, three places for the number, marker

# From cold to warm, dark to light, so that the order also survives without colour vision.
_STOPS = ((38, 42, 84), (64, 90, 160), (70, 150, 140), (170, 190, 90), (250, 220, 110))


def heatmap(
    matrix: Sequence[Sequence[float]],
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    marked: Mapping[int, int],
    skip_diagonal: bool = False,
    colour: bool = True,
    unicode: bool = True,
) -> Text:
    """Draw a matrix, one line for each row.

    Args:
        matrix: Values ``[rows][columns]``. The scale goes from the smallest to the largest of those shown.
        row_names: Names of the rows.
        column_names: Names of the columns.
        marked: For each row's index, the index of the column that is marked with ``*``.
        skip_diagonal: Leave the cells out that compare a text with itself.
        colour: Put the value in the background colour; without it a shade stands before each number.
        unicode: Use block characters as shades, or ASCII ones.

    Returns:
        The text: a header line and a line for each row. Numbers are hundredths.
    """
    shown = [value for i, row in enumerate(matrix) for j, value in enumerate(row) if not (skip_diagonal and i == j)]
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    margin = max(len(name) for name in row_names) + 1
    shades = SHADES if unicode else ASCII_SHADES

    text = Text(" " * margin, no_wrap=True)
    text.append("".join(f"{name:^{CELL_WIDTH}}" for name in column_names), style="dim")
    for i, (name, row) in enumerate(zip(row_names, matrix, strict=True)):
        text.append(f"\n{name:<{margin}}", style="dim")
        for j, value in enumerate(row):
            if skip_diagonal and i == j:
                text.append(f"{'-':^{CELL_WIDTH}}", style="dim")
                continue
            share = (value - low) / (high - low) if high > low else 1.0
            marker = "*" if marked.get(i) == j else " "
            shade = " " if colour else shades[min(int(share * len(shades)), len(shades) - 1)]
            hundredths = max(round(value * 100), -99)  # -100 would not fit
            cell = f"{shade}{hundredths:>2}{marker}".ljust(CELL_WIDTH)
            text.append(cell, style=_style(share, bold=marker == "*") if colour else "")
    return text


def heatmap_width(row_names: Sequence[str], column_names: Sequence[str]) -> int:
    """Columns of the terminal that the heat map takes."""
    return max(len(name) for name in row_names) + 1 + CELL_WIDTH * len(column_names)


def _style(share: float, *, bold: bool) -> Style:
    position = share * (len(_STOPS) - 1)
    index = min(int(position), len(_STOPS) - 2)
    red, green, blue = (
        round(low + (high - low) * (position - index))
        for low, high in zip(_STOPS[index], _STOPS[index + 1], strict=True)
    )
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 128
    return Style(color="#ffffff" if dark else "#000000", bgcolor=f"rgb({red},{green},{blue})", bold=bold)
