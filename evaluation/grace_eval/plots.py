"""How our figures look: colours that colour-blind people can tell apart, markers and lines that survive grey print."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace_train.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, ordered so that neighbours differ in lightness as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
GREY = "#6f6f6f"
_PANEL = (5.0, 3.6)


def style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the series of this number."""
    place = index % len(COLORS)
    return {
        "color": COLORS[place],
        "marker": MARKERS[place],
        "linestyle": LINES[place],
        "linewidth": 1.6,
        "markersize": 5,
    }


def new_figure(columns: int = 1, rows: int = 1, *, panel: tuple[float, float] = _PANEL) -> tuple[Figure, list[Axes]]:
    """An empty figure and its panels, row by row.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'grace-st[train]'") from error
    # No pyplot: it holds figures and settings that belong to the caller's notebook.
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(rows * columns)]
    for one in axes:
        dress(one)
    return figure, axes


def dress(axes: Axes) -> None:
    """Thin grid, two spines, small ticks."""
    axes.grid(True, color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors="#333333", length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)


def title(axes: Axes, text: str, x: str, y: str) -> None:
    """A panel's title and the names of its axes."""
    axes.set_title(text, fontsize=10, loc="left", fontweight="bold")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def stamp(figure: Figure, text: str) -> None:
    """A line across the foot of a figure that cannot be overlooked."""
    figure.supxlabel(text, fontsize=9, color="#B00020", fontweight="bold")


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a figure in several formats. Nothing in the files tells when they were made."""
    import matplotlib

    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        metadata = {"Date": None} if kind == "svg" else {}
        with matplotlib.rc_context({"svg.hashsalt": "grace-st"}):
            write_atomically(path, partial(figure.savefig, format=kind, metadata=metadata))
        paths.append(path)
    return paths
