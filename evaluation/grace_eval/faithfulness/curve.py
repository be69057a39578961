"""The budget curve as a picture: the score against the tokens of the rationale that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grace_eval import plots
from grace_eval.faithfulness.measure import RANDOM, SHUFFLED, SWAPPED, TaskResult

_DRAWN = (SHUFFLED, SWAPPED, RANDOM)


def draw_budget_curve(tasks: Sequence[TaskResult], stem: Path) -> list[Path]:
    """Draw a panel for each task: the curve with its 95% band, and what the other changes leave of the score.

    Args:
        tasks: What was found.
        stem: Of the files; ``.png`` and ``.svg`` are added.

    Returns:
        The files.
    """
    columns = min(3, len(tasks))
    figure, panels = plots.new_figure(columns, -(-len(tasks) // columns))
    for axes, task in zip(panels, tasks, strict=False):
        budgets = [effect.budget or 0 for effect in task.curve]
        scores = [effect.score for effect in task.curve]
        look = plots.style(0)
        axes.fill_between(
            budgets, [s.low for s in scores], [s.high for s in scores], color=look["color"], alpha=0.15, linewidth=0
        )
        axes.plot(budgets, [s.mean for s in scores], **look, label="first tokens, 95% interval")
        for place, name in enumerate(_DRAWN, start=1):
            effect = next(effect for effect in task.effects if effect.name == name)
            line = {
                key: value for key, value in plots.style(place).items() if key in ("color", "linestyle", "linewidth")
            }
            axes.axhline(effect.score.mean, **line, label=f"whole, {name}")
        plots.title(axes, task.task, "tokens of the rationale that are kept", task.metric)
        axes.set_xscale("symlog", base=2, linthresh=4, linscale=0.7)
        ticks = [budget for budget in budgets[:-1] if budget * 1.35 < budgets[-1]] + budgets[-1:]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=min(0.0, *(s.low for s in scores)))
        axes.legend(fontsize=7, frameon=False, loc="best")
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    return plots.save(figure, stem)
