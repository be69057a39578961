"""What a study's results become: a CSV file, a page of Markdown, a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grace_eval import plots
from grace_eval.files import write_whole
from grace_eval.markdown import table
from grace_eval.reproduce.declare import Study
from grace_eval.reproduce.drawing import DRAWN
from grace_eval.reproduce.run import Result
from grace_st.cards.paper import ALGORITHMS, GENERAL, SUPERVISED, UNSUPERVISED, PaperRow

PAPER: dict[str, tuple[PaperRow, ...]] = {
    "table-1": SUPERVISED,
    "table-2": (*(row for row in SUPERVISED if row.method == "Base"), *UNSUPERVISED),
    "table-4": ALGORITHMS,
    "table-5": GENERAL,
}


def write_outputs(study: Study, results: Sequence[Result], folder: Path) -> list[Path]:
    """Write ``STUDY.csv``, ``.md``, ``.png`` and ``.svg``, of the cells that are done.

    Returns:
        Their paths. Without a cell that is done there are no pictures.
    """
    made = {f"{study.name}.csv": as_csv(study, results), f"{study.name}.md": as_markdown(study, results)}
    for name, text in made.items():
        write_whole(folder / name, text)
    paths = [folder / name for name in made]
    done = [result for result in results if result.figures is not None]
    if done:
        figure = DRAWN[study.name](study, done)
        if study.stamp:
            plots.stamp(figure, study.stamp)
        paths += plots.save(figure, folder / study.name)
    return paths


def flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A result's figures as one row: categories and tasks by their names, the rest as ``MEASURE.FIGURE``."""
    row: dict[str, Any] = {}
    for kind, values in figures.items():
        for name, value in values.items():
            if name in ("columns", "tasks"):
                row |= value
            elif name == "written":
                row |= {f"rationale of the {one['name']}": one["rationale"] for one in value}
            else:
                row["average" if (kind, name) == ("quality", "average") else f"{kind}.{name}"] = value
    return row


def as_csv(study: Study, results: Sequence[Result]) -> str:
    """A line for each cell that is done. In smoke runs the first column says so."""
    rows = [
        {
            **({"stamp": study.stamp} if study.stamp else {}),
            "cell": result.cell.name,
            **result.cell.labels,
            **flat(result.figures),
        }
        for result in results
        if result.figures is not None
    ]
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["cell"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()})
    return stream.getvalue()


# ---------------------------------------------------------------- Markdown


def as_markdown(study: Study, results: Sequence[Result]) -> str:
    """The page: what was measured, the paper's figures where it prints them, and where the two differ."""
    done = [result for result in results if result.figures is not None]
    name = f"{study.kind.capitalize()} {study.number}"
    sections = [f"# {name}: {study.title}"]
    if study.stamp:
        sections.append(f"**{study.stamp}**. A reduced run on the bundled model, which shows that everything works.")
    sections.append(f"{len(done)} of {len(results)} cells are done." if len(done) < len(results) else "")
    if done:
        sections += [_TABLES.get(study.name, _scores)(done), f"![{name}]({study.name}.png)"]
    if not study.stamp and study.name in PAPER:
        sections += ["## The paper's figures, as printed", paper_table(PAPER[study.name])]
    failed = [f"- {result.cell.name}: {result.cause}" for result in results if result.cause]
    sections += ["## Failed", "\n".join(failed)] if failed else []
    if study.notes:
        sections += ["## Notes", "\n".join(f"- {note}" for note in study.notes)]
    return "\n\n".join(section for section in sections if section) + "\n"


def paper_table(rows: Sequence[PaperRow]) -> str:
    """Rows of one of the paper's tables, as printed."""
    columns = list(rows[0].columns)
    lines = [
        [f"{row.model}, {row.method}", *(f"{row.columns[name]:.2f}" for name in columns), f"{row.average:.2f}"]
        for row in rows
    ]
    return table(["", *columns, "Average"], lines)


def _label(result: Result) -> str:
    return ", ".join(str(value) for value in result.cell.labels.values())


def _figures(result: Result) -> Mapping[str, Any]:
    assert result.figures is not None
    return result.figures


def _scores(results: Sequence[Result]) -> str:
    """Labels, categories, average."""
    columns = list(dict.fromkeys(name for result in results for name in _figures(result)["quality"]["columns"]))
    lines = []
    for result in results:
        quality = _figures(result)["quality"]
        own = [f"{quality['columns'][name]:.2f}" if name in quality["columns"] else "" for name in columns]
        lines.append([_label(result), *own, f"{quality['average']:.2f}"])
    return table(["", *columns, "Average"], lines)


def _general(results: Sequence[Result]) -> str:
    """Labels, tasks, average, and how far that is from the backbone's."""
    columns = list(_figures(results[0])["general"]["columns"])
    base = {
        result.cell.labels["backbone"]: _figures(result)["general"]["average"]
        for result in results
        if result.cell.labels["method"] == "Base"
    }
    lines = []
    for result in results:
        general, start = _figures(result)["general"], base.get(result.cell.labels["backbone"])
        is_start = start is None or result.cell.labels["method"] == "Base"
        change = "" if is_start else f"{general['average'] - start:+.2f}"
        own = [f"{general['columns'][name]:.2f}" for name in columns]
        lines.append([_label(result), *own, f"{general['average']:.2f}", change])
    return table(["", *columns, "Average", "Change"], lines)


def _joint(results: Sequence[Result]) -> str:
    lines = [[_label(result), f"{_figures(result)['general']['average']:.2f}", _average(result)] for result in results]
    return table(["", "Generative", "Embedding"], lines)


def _grid(results: Sequence[Result]) -> str:
    """A matrix for each mode."""
    parts = []
    for mode in dict.fromkeys(result.cell.labels["mode"] for result in results):
        own = {
            (result.cell.labels["lambda_consistency"], result.cell.labels["lambda_hard"]): result
            for result in results
            if result.cell.labels["mode"] == mode
        }
        rows, columns = (sorted({key[place] for key in own}) for place in (0, 1))
        lines = [
            [f"{row}", *(_average(own[row, column]) if (row, column) in own else "" for column in columns)]
            for row in rows
        ]
        head = [r"consistency \ hard", *(str(column) for column in columns)]
        parts.append(f"**{str(mode).capitalize()}**\n\n{table(head, lines)}")
    return "\n\n".join(parts)


def _average(result: Result) -> str:
    return f"{_figures(result)['quality']['average']:.2f}"


def _times(results: Sequence[Result]) -> str:
    names = ("encode_ms", "generate_ms", "match_ms", "total_ms")
    lines = []
    for result in results:
        latency = _figures(result)["latency"]
        own = [f"{latency[name]:.2f}" for name in names]
        lines.append([_label(result), *own, f"{latency['tokens']:.1f}", _average(result), latency["device"]])
    return table(
        ["Method, G", "T_encode (ms)", "T_gen (ms)", "T_match (ms)", "Total (ms)", "Tokens", "Average", "Device"], lines
    )


def _progress(results: Sequence[Result]) -> str:
    lines = [
        [
            _label(result),
            _average(result),
            f"{_figures(result)['length']['tokens']:.1f}",
            f"{_figures(result)['length']['finished']:.0%}",
        ]
        for result in results
    ]
    return table(["Model, step", "Average", "Tokens", "End by themselves"], lines)


def _written(results: Sequence[Result]) -> str:
    parts = []
    for result in results:
        for one in _figures(result)["rationales"]["written"]:
            quoted = "\n".join(f"> {line}" for line in one["rationale"].splitlines() or [""])
            end = "" if one["finished"] else ", cut off by the budget"
            step = "Before training" if result.cell.labels["step"] == 0 else f"Step {result.cell.labels['step']}"
            parts.append(f"**{step}, {one['name']}** ({one['tokens']} tokens{end})\n\n{quoted}")
    return "\n\n".join(parts)


_TABLES: dict[str, Callable[[Sequence[Result]], str]] = {
    "table-5": _general,
    "table-6": _written,
    "figure-1": _joint,
    "figure-3": _grid,
    "figure-4": _times,
    "figure-5": _progress,
}
