"""The curves of a run as one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grace_train.files import write_atomically
from grace_train.report.log import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Steps and values ``[n]`` by name."""

# Okabe and Ito's colours, which colour-blind people can tell apart.
_BLACK, _BLUE, _RED, _GREEN, _PINK = "#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_ORANGE = "#E69F00"
_CYCLE = (_BLUE, _RED, _GREEN, _PINK, _ORANGE, "#56B4E9")
_TERMS = {"positive": _BLUE, "negative": _RED, "consistency": _GREEN, "hard": _PINK, "repetition": _ORANGE}
_GREY = "#8a8a8a"

_COLUMNS = 3
_PANEL_INCHES = (4.6, 3.1)
_SMOOTHED_FROM = 12  # points; fewer are clearer as they are
_FLAT = 1e-4  # deviations below are drawn on a linear scale, so that 0 has a place on a logarithmic axis


@dataclass(frozen=True)
class _Line:
    name: str
    label: str
    color: str
    of_query: bool = False
    right: bool = False


@dataclass(frozen=True)
class _Panel:
    title: str
    unit: str
    lines: tuple[_Line, ...]
    right_unit: str = ""
    log: bool = False
    share: bool = False
    right_share: bool = False


def draw_curves(metrics_path: Path, png_path: Path) -> None:
    """Draw the curves of a run from its ``metrics.jsonl``.

    Panels without values are left out. A thin line is the values, a thick one their moving average.

    Args:
        metrics_path: What `RunLog` has written, of a finished run or of one that goes on.
        png_path: The picture, replaced in one go.

    Raises:
        FileNotFoundError: There are no metrics.
        ValueError: They hold nothing that is drawn, or are damaged.
        ImportError: matplotlib is not installed.
    """
    series = _series(read_metrics(metrics_path))
    panels = [(panel, lines) for panel in _panels(series) if (lines := [ln for ln in panel.lines if ln.name in series])]
    if not panels:
        raise ValueError(f"{metrics_path} holds no values to draw: train at least one step first")
    figure = _new_figure(len(panels))
    rows = math.ceil(len(panels) / _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    for index, (panel, lines) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw(axes, panel, lines, series)
    write_atomically(png_path, partial(figure.savefig, format="png"))


def _panels(series: Series) -> list[_Panel]:
    sides = (("reward/", False), ("query_reward/", True))
    total = tuple(_Line(f"{side}total", "total", _BLACK, of_query) for side, of_query in sides)
    terms = tuple(
        _Line(f"{side}{term}", term, color, of_query) for side, of_query in sides for term, color in _TERMS.items()
    )
    deviations = tuple(_Line(f"{line.name}_std", line.label, line.color, line.of_query) for line in terms)
    held_out = tuple(
        _Line(name, name.removeprefix("eval/"), _CYCLE[index % len(_CYCLE)])
        for index, name in enumerate(sorted(name for name in series if name.startswith("eval/")))
    )
    return [
        _Panel("Reward", "reward (scaled)", total),
        _Panel("Reward terms", "mean, unweighted", terms),
        _Panel("Deviation within groups (0 trains nothing)", "standard deviation", deviations, log=True),
        _Panel("Held-out retrieval", "score", held_out, share=True),
        _Panel(
            "Rationales",
            "mean length (tokens)",
            (
                _Line("rollout/length", "length", _BLUE),
                _Line("rollout/eos_rate", "EOS rate", _GREEN, right=True),
                _Line("rollout/distinct", "distinct", _PINK, right=True),
            ),
            right_unit="share of rollouts",
            right_share=True,
        ),
        _Panel(
            "Similarity",
            "mean cosine",
            (
                _Line("vectors/unrelated_similarity", "unrelated texts", _RED),
                _Line("vectors/query_negative_similarity", "query and negative", _BLUE),
            ),
        ),
        _Panel("Effective rank", "dimensions", (_Line("vectors/effective_rank", "effective rank", _BLUE),)),
        _Panel(
            "Optimisation",
            "loss",
            (
                _Line("loss/policy", "policy loss", _BLUE),
                _Line("loss/contrastive", "contrastive loss", _BLUE),
                _Line("loss/grad_norm", "gradient norm", _RED, right=True),
            ),
            right_unit="gradient norm",
        ),
        _Panel(
            "Distance to the start",
            "KL divergence (nats a token)",
            (_Line("kl/start", "KL to the start", _BLUE),),
        ),
    ]


def _series(records: Sequence[Mapping[str, float]]) -> Series:
    """The finite values of each name by step; of two values of one step the later one counts."""
    points: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in record.items():
            if name != "step" and math.isfinite(value):
                points.setdefault(name, {})[int(record["step"])] = value
    return {
        name: (np.array(sorted(own)), np.array([own[step] for step in sorted(own)], dtype=float))
        for name, own in points.items()
    }


def _new_figure(panels: int) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("curves need matplotlib: pip install 'grace-st[train]'") from error
    width, height = _PANEL_INCHES
    size = (width * min(_COLUMNS, panels), height * math.ceil(panels / _COLUMNS))
    # No pyplot: it holds figures and settings that belong to the caller's notebook.
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(figure)
    return figure


def _draw(axes: Axes, panel: _Panel, lines: Sequence[_Line], series: Series) -> None:
    right = axes.twinx() if any(line.right for line in lines) else None
    for line in lines:
        target = right if line.right and right is not None else axes
        _draw_line(target, line, *series[line.name])
    axes.set_title(panel.title, fontsize=10, loc="left", fontweight="bold")
    axes.set_xlabel("step", fontsize=8)
    if panel.log:
        axes.set_yscale("symlog", linthresh=_FLAT)
    _dress(axes, panel.unit, share=panel.share)
    if right is not None:
        _dress(right, panel.right_unit, share=panel.right_share)
        right.grid(False)
    if len(lines) > 1:
        _add_legend(axes, lines, above=right is not None)


def _draw_line(axes: Axes, line: _Line, steps: np.ndarray, values: np.ndarray) -> None:
    style = "--" if line.of_query else "-"
    if len(steps) < _SMOOTHED_FROM or line.name.startswith("eval/"):
        axes.plot(steps, values, style, color=line.color, linewidth=1.8, marker="o", markersize=3)
    else:
        axes.plot(steps, values, style, color=line.color, linewidth=0.8, alpha=0.3)
        axes.plot(steps, _smoothed(values), style, color=line.color, linewidth=1.8)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A centred moving average over about a twentieth of the values ``[n]``, and over half of it at the ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    smooth: np.ndarray = (sums[end] - sums[first]) / (end - first)
    return smooth


def _add_legend(axes: Axes, lines: Sequence[_Line], *, above: bool) -> None:
    from matplotlib.lines import Line2D

    shown = {line.label + (" (right)" if line.right else ""): line.color for line in lines}
    handles = [Line2D([], [], color=color, linewidth=1.8, label=label) for label, color in shown.items()]
    if any(line.of_query for line in lines):
        handles.append(Line2D([], [], color=_GREY, linewidth=1.8, linestyle="--", label="of the queries"))
    place: dict[str, Any] = {"ncols": 2 if len(handles) > 3 else 1}
    if above:  # "best" would not look at the lines of the other axis
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.98), "ncols": len(handles), "columnspacing": 1.0}
    axes.legend(handles=handles, fontsize=7, frameon=False, handlelength=1.4, **place)


def _dress(axes: Axes, unit: str, *, share: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(labelsize=7, colors="#444444", length=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if np.ptp(axes.dataLim.intervalx) == 0:  # one step: no fractions of steps around it
        axes.set_xlim(axes.dataLim.x0 - 1, axes.dataLim.x0 + 1)
    axes.grid(True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GREY)
    if share and axes.dataLim.y0 >= 0.0 and axes.dataLim.y1 <= 1.0:
        axes.set_ylim(-0.03, 1.03)
