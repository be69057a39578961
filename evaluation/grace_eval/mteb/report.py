"""Reports: scores by task and category, beside the paper's figures and those of published models."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grace_eval.files import write_whole
from grace_eval.mteb.scores import TaskScore, by_category, task_mean
from grace_st.cards.paper import COLUMNS, PaperRow


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report says.

    Attributes:
        model: Name, revision and settings of the model.
        benchmark: Its name, or ``"tasks"``.
        wanted: Names of all tasks of the benchmark.
        scores: By task, those that are there.
        failed: Error by task.
        published: Scores of published models, by model and task.
        paper: The paper's rows for this benchmark.
        versions: Of the packages that scores depend on.
        local_data: Tasks whose data did not come from the hub: the folder of the local copies, or ``"unknown"``.
    """

    model: Mapping[str, Any]
    benchmark: str
    wanted: Sequence[str]
    scores: Mapping[str, TaskScore]
    failed: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, TaskScore]] = field(default_factory=dict)
    paper: Sequence[PaperRow] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    local_data: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Tasks without a score."""
        return [name for name in self.wanted if name not in self.scores]


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``BENCHMARK.md``, ``.csv`` and ``.json``. Returns their paths."""
    stem = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in report.benchmark)
    made = {f"{stem}.md": as_markdown(report), f"{stem}.csv": as_csv(report), f"{stem}.json": as_json(report)}
    for name, text in made.items():
        write_whole(folder / name, text)
    return [folder / name for name in made]


def as_dict(report: Report) -> dict[str, Any]:
    """The report as JSON values. Scores are fractions, the paper's figures percentages as printed."""
    common = _common(report)
    return {
        "model": dict(report.model),
        "benchmark": report.benchmark,
        "tasks_wanted": len(report.wanted),
        "tasks_done": len(report.scores),
        "average": task_mean(report.scores.values()),
        "categories": by_category(report.scores.values()),
        "tasks": [asdict(report.scores[name]) for name in report.wanted if name in report.scores],
        "missing": report.missing,
        "failed": dict(report.failed),
        "published": {
            model: {
                "tasks": {name: score.value for name, score in scores.items()},
                "average_on_common_tasks": common[model],
            }
            for model, scores in report.published.items()
        },
        "paper": [asdict(row) for row in report.paper],
        "versions": dict(report.versions),
        "local_data": dict(report.local_data),
    }


def as_json(report: Report) -> str:
    """`as_dict` as text."""
    return json.dumps(as_dict(report), indent=2, ensure_ascii=False) + "\n"


def as_csv(report: Report) -> str:
    """One line for each task: its score and those of published models, as fractions. Means stand last."""
    stream = io.StringIO()
    models = list(report.published)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["task", "category", "metric", "score", "seconds", "dataset_revision", *models])
    for name in report.wanted:
        score = report.scores.get(name)
        others = [_value(report.published[model].get(name)) for model in models]
        if score is None:
            writer.writerow([name, "", "", "", "", "", *others])
        else:
            row = [score.task, score.category, score.metric, f"{score.value:.6f}", score.seconds or ""]
            writer.writerow([*row, score.dataset_revision or "", *others])
    mean = task_mean(report.scores.values())
    if mean is not None:
        blank = ["", "", *("" for _ in models)]
        for name, value in by_category(report.scores.values()).items():
            writer.writerow(["", name, "mean", f"{value:.6f}", *blank])
        writer.writerow(["", "", "mean", f"{mean:.6f}", *blank])
    return stream.getvalue()


def as_markdown(report: Report) -> str:
    """The report for people, in percent."""
    sections = [_head(report), _categories(report), _tasks(report), _notes(report)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(report: Report) -> str:
    model = report.model
    experiment = ", ".join(f"{name}={value}" for name, value in model.get("experiment", {}).items())
    done = f"{len(report.scores)} of {len(report.wanted)} tasks"
    lines = [
        f"# {model['name']} on {report.benchmark}",
        "",
        f"Revision `{model['revision']}`; {experiment or 'the settings of the model folder'}. {done}.",
    ]
    if report.versions:
        lines.append("Made with " + ", ".join(f"{name} {version}" for name, version in report.versions.items()) + ".")
    return "\n".join(lines)


def _categories(report: Report) -> str:
    mine = by_category(report.scores.values())
    if not mine:
        return ""
    columns = [name for name in COLUMNS if name in mine or report.paper] + [
        name for name in mine if name not in COLUMNS
    ]
    counts = {name: sum(score.category == name for score in report.scores.values()) for name in columns}
    header = ["", *(f"{name} ({counts[name]})" for name in columns), "Task mean"]
    rows = [
        [
            f"**{report.model['name']}**",
            *(_percent(mine.get(name)) for name in columns),
            _percent(task_mean(report.scores.values())),
        ]
    ]
    for row in report.paper:
        figures = [f"{row.columns[name]:.2f}" if name in row.columns else "" for name in columns]
        rows.append([f"{row.model}, {row.method} (paper, Table {row.table})", *figures, f"{row.average:.2f}"])
    text = "## By category\n\n" + _table(header, rows)
    if report.paper:
        text += (
            "\n\nThe last column is the mean over tasks for the measured model. The paper's rows are its figures as "
            "printed; its averages do not follow from its columns, so the two are not the same quantity."
        )
        if report.missing:
            lacking = f"{len(report.missing)} task{'s' if len(report.missing) > 1 else ''}"
            text += f" The measured model lacks {lacking}, so its row is of fewer than the paper's."
    return text


def _tasks(report: Report) -> str:
    models = list(report.published)
    rows = []
    for name in report.wanted:
        score = report.scores.get(name)
        others = [_percent(_score(report.published[model].get(name))) for model in models]
        if score is not None:
            rows.append([name, score.category, score.metric, _percent(score.value), *others])
        else:
            rows.append([name, "", "", "failed" if name in report.failed else "missing", *others])
    text = "## By task\n\n" + _table(["Task", "Category", "Metric", str(report.model["name"]), *models], rows)
    common = _common(report)
    if models:
        lines = []
        for model in models:
            names = _shared(report, model)
            if names:
                mine = task_mean(report.scores[name] for name in names)
                of = "one common task" if len(names) == 1 else f"mean of {len(names)} common tasks"
                lines.append(f"- {model}: {_percent(common[model])}, this model {_percent(mine)} ({of})")
        text += "\n\n" + "\n".join(lines) if lines else ""
    return text


def _notes(report: Report) -> str:
    notes = []
    for source in dict.fromkeys(report.local_data.values()):
        names = ", ".join(name for name, value in report.local_data.items() if value == source)
        where = f"Read from local copies in `{source}`"
        if source == "unknown":
            where = "It is not known where the data came from"
        notes.append(f"{where}: {names}. That they are those of the revisions that mteb names was not checked.")
    differing = sorted(
        {
            name
            for scores in report.published.values()
            for name, score in scores.items()
            if name in report.scores and score.dataset_revision != report.scores[name].dataset_revision
        }
    )
    if differing:
        notes.append(f"Published scores of another revision of the data: {', '.join(differing)}.")
    notes += [f"{name} failed: {error}" for name, error in report.failed.items()]
    return "\n\n".join(notes)


def _shared(report: Report, model: str) -> list[str]:
    return [name for name in report.wanted if name in report.scores and name in report.published[model]]


def _common(report: Report) -> dict[str, float | None]:
    return {
        model: task_mean(report.published[model][name] for name in _shared(report, model)) for model in report.published
    }


def _score(score: TaskScore | None) -> float | None:
    return None if score is None else score.value


def _value(score: TaskScore | None) -> str:
    return "" if score is None else f"{score.value:.6f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
