"""The picture of each study. Colour is never alone: hatches, markers and numbers say the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from grace_eval import plots
from grace_eval.reproduce.declare import Study
from grace_eval.reproduce.run import Result
from grace_st.cards.paper import ALGORITHMS, GENERAL, SUPERVISED, UNSUPERVISED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SCORE = "average score (%)"


def _values(result: Result) -> Mapping[str, Any]:
    assert result.figures is not None
    return result.figures


def _average(result: Result) -> float:
    return float(_values(result)["quality" if "quality" in _values(result) else "general"]["average"])


def _by(results: Sequence[Result], label: str) -> dict[Any, list[Result]]:
    """Results in groups of one label, in the order in which they are declared."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault(result.cell.labels[label], []).append(result)
    return groups


# ---------------------------------------------------------------- tables of scores


def _printed(study: Study) -> dict[tuple[str, ...], float]:
    """The paper's printed averages, by labels; none beside smoke runs, which they have nothing to do with."""
    if study.stamp:
        return {}
    if study.name == "table-5":
        return {(row.model, row.method): row.average for row in GENERAL}
    printed: dict[tuple[str, ...], float] = {(row.method,): row.average for row in ALGORITHMS}
    return printed | {(row.model, row.method): row.average for row in (*SUPERVISED, *UNSUPERVISED)}


def _scores(study: Study, results: Sequence[Result]) -> Figure:
    """A bar for each row, grouped by backbone, and the paper's average as a diamond."""
    has_groups = "backbone" in results[0].cell.labels
    groups = _by(results, "backbone") if has_groups else {"": list(results)}
    rows = sum(map(len, groups.values())) + len(groups) - 1
    figure, (axes,) = plots.new_figure(panel=(6.4, 1.3 + 0.34 * rows))
    printed, place, ticks, names = _printed(study), 0, [], []
    kinds = list(dict.fromkeys(list(result.cell.labels.values())[-1] for result in results))
    for group, members in groups.items():
        for result in members:
            labels = tuple(str(value) for value in result.cell.labels.values())
            kind = kinds.index(list(result.cell.labels.values())[-1])
            score = _average(result)
            _bar(axes, place, score, kind, horizontal=True, thickness=0.72)
            # At the foot of the bar, where no diamond of the paper can cover it.
            box: dict[str, Any] = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"}
            foot: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
            axes.annotate(f"{score:.1f}", (0, place), bbox=box, **foot)
            if labels in printed:
                axes.plot(
                    printed[labels], place, marker="D", markersize=5, markerfacecolor="white",
                    markeredgecolor="#222222", linestyle="none", zorder=5,
                    label="paper, as printed" if "paper" not in axes.get_legend_handles_labels()[1] else None,
                )  # fmt: skip
            ticks.append(place)
            names.append(labels[-1] if not group else f"{group}: {labels[-1]}")
            place += 1
        place += 1
    axes.set_yticks(ticks, names, fontsize=8)
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    plots.title(axes, f"{study.kind.capitalize()} {study.number}: {study.title}", _SCORE, "")
    if printed:
        handles, texts = axes.get_legend_handles_labels()
        figure.legend(handles[:1], texts[:1], fontsize=8, frameon=False, loc="outside lower right")
    return figure


def _bar(
    axes: Axes, place: float, value: float, kind: int, *, horizontal: bool = False, thickness: float, base: float = 0.0
) -> Any:
    look: dict[str, Any] = {
        "color": plots.COLORS[kind % len(plots.COLORS)],
        "hatch": plots.HATCHES[kind % len(plots.HATCHES)],
        "edgecolor": "white",
        "linewidth": 0.0,
    }
    if horizontal:
        return axes.barh(place, value, thickness, left=base, **look)
    return axes.bar(place, value, thickness, bottom=base, **look)


# ---------------------------------------------------------------- figures


def _joint(study: Study, results: Sequence[Result]) -> Figure:
    """A point for each model; arrows lead from a backbone to what training made of it."""
    figure, (axes,) = plots.new_figure(panel=(6.4, 4.8))
    methods = list(_by(results, "method"))
    for backbone, members in _by(results, "backbone").items():
        places = {one.cell.labels["method"]: _place(one) for one in members}
        for method, place in places.items():
            look = plots.style(methods.index(method)) | {
                "linestyle": "none",
                "markersize": 8,
                "markeredgecolor": "white",
            }
            known = axes.get_legend_handles_labels()[1]
            axes.plot(*place, **look, zorder=3, label=None if method in known else str(method))
        start = places.get("Base")
        if start is None:
            continue
        axes.annotate(str(backbone), start, (6, -12), textcoords="offset points", fontsize=8)
        for method, place in places.items():
            if method != "Base":
                arrow = {"arrowstyle": "->", "color": plots.GREY, "linewidth": 0.9, "shrinkA": 5, "shrinkB": 5}
                axes.annotate("", place, start, arrowprops=arrow)
    axes.margins(0.15)
    axes.legend(fontsize=8, frameon=False, loc="best")
    plots.title(axes, study.title, "generative score (%)", "embedding score (%)")
    return figure


def _place(result: Result) -> tuple[float, float]:
    values = _values(result)
    return float(values["general"]["average"]), float(values["quality"]["average"])


def _heat_maps(study: Study, results: Sequence[Result]) -> Figure:
    """A map for each mode, with its numbers in it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    modes = _by(results, "mode")
    figure, panels = plots.new_figure(len(modes), panel=(4.6, 3.9))
    for axes, (mode, members) in zip(panels, modes.items(), strict=True):
        rows = sorted({float(result.cell.labels["lambda_consistency"]) for result in members})
        columns = sorted({float(result.cell.labels["lambda_hard"]) for result in members})
        grid = np.full((len(rows), len(columns)), np.nan)
        for result in members:
            labels = result.cell.labels
            place = rows.index(float(labels["lambda_consistency"])), columns.index(float(labels["lambda_hard"]))
            grid[place] = _average(result)
        low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        norm = Normalize(low, high)
        # Lightness alone says all: it reads the same in grey and to the colour-blind.
        axes.imshow(np.ma.masked_invalid(grid), cmap="cividis", norm=norm, aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(grid):
            shown = "" if np.isnan(value) else f"{value:.1f}"
            dark = not np.isnan(value) and norm(value) < 0.55
            axes.text(column, row, shown, ha="center", va="center", fontsize=9, color="white" if dark else "black")
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.grid(False)
        plots.title(axes, str(mode).capitalize(), r"$\lambda_2$, hard negatives", r"$\lambda_1$, consistency")
        figure.colorbar(ScalarMappable(norm, "cividis"), ax=axes, label=_SCORE, shrink=0.9)
    return figure


def _efficiency(study: Study, results: Sequence[Result]) -> Figure:
    """Times as stacked bars, and score against time with the front of what nothing else beats."""
    figure, (bars, front) = plots.new_figure(2, panel=(5.4, 4.2))
    parts = {"encode_ms": r"$T_{encode}$", "generate_ms": r"$T_{gen}$", "match_ms": r"$T_{match}$"}
    for place, result in enumerate(results):
        latency, base = _values(result)["latency"], 0.0
        for kind, name in enumerate(parts):
            _bar(bars, place, latency[name], kind, horizontal=True, thickness=0.7, base=base)
            base += latency[name]
        total = f"{latency['total_ms']:.1f} ms"
        bars.annotate(total, (base, place), (4, 0), textcoords="offset points", va="center", fontsize=7)
    bars.set_yticks(range(len(results)), [_method(result) for result in results], fontsize=8)
    bars.invert_yaxis()
    bars.margins(x=0.18)
    bars.grid(False, axis="y")
    handles = [_patch(kind, label) for kind, label in enumerate(parts.values())]
    bars.legend(handles=handles, fontsize=8, frameon=False, loc="upper right")
    plots.title(bars, "Time of one query", "milliseconds", "")

    for index, (method, members) in enumerate(_by(results, "method").items()):
        times = [_values(result)["latency"]["total_ms"] for result in members]
        front.plot(times, [_average(result) for result in members], **plots.style(index), label=str(method))
        for result, time in zip(members, times, strict=True):
            if len(members) > 1:
                where = (5, 5) if index % 2 else (5, -11)
                text = f"G={result.cell.labels['budget']}"
                front.annotate(text, (time, _average(result)), where, textcoords="offset points", fontsize=7)
    best = _front([(_values(result)["latency"]["total_ms"], _average(result)) for result in results])
    front.step(
        *zip(*best, strict=True), where="post", color=plots.GREY, linewidth=3.5, alpha=0.35, zorder=1, label="front"
    )
    front.set_xscale("log")
    front.margins(x=0.12, y=0.12)
    front.legend(fontsize=8, frameon=False, loc="best")
    plots.title(front, "Score against time", "milliseconds a query (logarithmic)", _SCORE)
    return figure


def _method(result: Result) -> str:
    labels = result.cell.labels
    if result.cell.model.is_encoder:
        return str(labels["method"])
    return f"{labels['method']}, G = {labels['budget']}"


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both time and score, by time."""
    kept: list[tuple[float, float]] = []
    for time, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or score > kept[-1][1]:
            kept.append((time, score))
    return kept


def _patch(kind: int, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(
        facecolor=plots.COLORS[kind % len(plots.COLORS)],
        hatch=plots.HATCHES[kind % len(plots.HATCHES)],
        edgecolor="white",
        linewidth=0.0,
        label=label,
    )


def _progression(study: Study, results: Sequence[Result]) -> Figure:
    """Score and length over steps."""
    figure, (left, right) = plots.new_figure(2)
    for index, (model, members) in enumerate(_by(results, "model").items()):
        steps = [result.cell.labels["step"] for result in members]
        left.plot(steps, [_average(result) for result in members], **plots.style(index), label=str(model))
        lengths = [_values(result)["length"]["tokens"] for result in members]
        right.plot(steps, lengths, **plots.style(index), label=str(model))
    plots.title(left, "Score", "training step", _SCORE)
    plots.title(right, "Rationales", "training step", "mean length (tokens)")
    for axes in (left, right):
        axes.set_xticks(sorted({int(result.cell.labels["step"]) for result in results}))
        axes.margins(y=0.15)
    left.legend(fontsize=8, frameon=False, loc="best")
    return figure


def _representations(study: Study, results: Sequence[Result]) -> Figure:
    """Groups of bars by model, a panel for each mode."""
    modes = _by(results, "mode")
    names = list(_by(results, "representation"))
    count = len(_by(results, "model"))
    # One above the other where there are many models.
    columns, rows = (len(modes), 1) if count < 3 else (1, len(modes))
    figure, panels = plots.new_figure(columns, rows, panel=(max(5.4, 2.1 * count), 3.6))
    width = 0.84 / len(names)
    for axes, (mode, members) in zip(panels, modes.items(), strict=True):
        models = list(_by(members, "model"))
        for result in members:
            kind = names.index(result.cell.labels["representation"])
            place = models.index(result.cell.labels["model"]) + (kind - (len(names) - 1) / 2) * width
            score = _average(result)
            _bar(axes, place, score, kind, thickness=width * 0.92)
            axes.annotate(f"{score:.1f}", (place, score), (0, 2), textcoords="offset points", ha="center", fontsize=6)
        axes.set_xticks(range(len(models)), [str(model) for model in models], fontsize=8)
        axes.grid(False, axis="x")
        plots.title(axes, str(mode).capitalize(), "", _SCORE)
    handles = [_patch(kind, str(name)) for kind, name in enumerate(names)]
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside upper center", ncols=3)
    return figure


def _sensitivity(study: Study, results: Sequence[Result]) -> Figure:
    """A panel for the batch size, one for the number of rollouts."""
    settings = _by(results, "setting")
    figure, panels = plots.new_figure(len(settings))
    names = {"batch size": "instances of a batch", "K": "rollouts of a positive, K"}
    for axes, (setting, members) in zip(panels, settings.items(), strict=True):
        for index, (model, own) in enumerate(_by(members, "model").items()):
            values = [result.cell.labels["value"] for result in own]
            axes.plot(values, [_average(result) for result in own], **plots.style(index), label=str(model))
        ticks = sorted({int(result.cell.labels["value"]) for result in members})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.margins(y=0.2)
        axes.sharey(panels[0])
        plots.title(axes, {"K": "Rollouts"}.get(str(setting), "Batch size"), names[str(setting)], _SCORE)
    panels[0].legend(fontsize=8, frameon=False, loc="best")
    return figure


def _written(study: Study, results: Sequence[Result]) -> Figure:
    """How long each text's rationale is, over steps."""
    figure, (axes,) = plots.new_figure()
    texts = [one["name"] for one in _values(results[0])["rationales"]["written"]]
    width = 0.8 / len(texts)
    for place, result in enumerate(results):
        for kind, one in enumerate(_values(result)["rationales"]["written"]):
            where = place + (kind - (len(texts) - 1) / 2) * width
            _bar(axes, where, one["tokens"], kind, thickness=width * 0.92)
            axes.annotate(
                str(one["tokens"]), (where, one["tokens"]), (0, 2), textcoords="offset points", ha="center", fontsize=7
            )
    axes.set_xticks(range(len(results)), [str(result.cell.labels["step"]) for result in results])
    axes.grid(False, axis="x")
    axes.margins(y=0.2)
    axes.legend(handles=[_patch(kind, text) for kind, text in enumerate(texts)], fontsize=8, frameon=False, ncols=2)
    plots.title(axes, study.title, "training step", "length of the rationale (tokens)")
    return figure


DRAWN: dict[str, Callable[[Study, Sequence[Result]], Figure]] = {
    "table-1": _scores,
    "table-2": _scores,
    "table-4": _scores,
    "table-5": _scores,
    "table-6": _written,
    "figure-1": _joint,
    "figure-3": _heat_maps,
    "figure-4": _efficiency,
    "figure-5": _progression,
    "figure-6": _representations,
    "figure-7": _sensitivity,
}
"""By the name of a study."""
