"""What ``grace-st demo`` shows: the rationales, the similarities, and what the rationale changes."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from grace_st.cli.demo import DemoResult
from grace_st.cli.heatmap import heatmap, heatmap_width
from grace_st.cli.terminal import count, has_colour, has_unicode, printable

WITHOUT, WITH = "from the prompt alone", "with the rationale"


def show(console: Console, result: DemoResult) -> None:
    """Print the demo."""
    console.print(_header(result))
    _section(console, "1", "What the model writes before it embeds")
    console.print(_rationales(result))
    if len(result.texts) > 1:
        _section(console, "2", "How close the texts are")
        console.print(_similarities(console, result))
        _section(console, "3", "What the rationale changes")
        console.print(_neighbours(console, result))
    console.print()
    console.print(_footer(result))


def _section(console: Console, number: str, title: str) -> None:
    console.print()
    console.print(Rule(Text(f"{number}  {title}", style="bold"), align="left", style="cyan"))
    console.print()


def _header(result: DemoResult) -> RenderableType:
    lines = Text()
    lines.append(result.model, style="bold cyan")
    lines.append(f"   {count(result.num_parameters)} parameters, vectors of {result.embedding_dimension} numbers\n")
    if result.bundled:
        lines.append("This small model is a demonstration: ", style="yellow")
        lines.append(
            "it knows one little knowledge base, gets facts wrong at times, and is not a useful embedder. "
            "Your own model takes its place with `grace-st convert`."
        )
    else:
        lines.append("For each text the model writes a rationale, and the vector is pooled from text and rationale.")
    return Panel(lines, title="GRACE: think, then embed", title_align="left", border_style="cyan")


def _rationales(result: DemoResult) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for text, rationale in zip(result.texts, result.rationales, strict=True):
        grid.add_row(text.name, "text", Text(printable(text.text), style="bold"))
        if rationale.thinking:
            grid.add_row("", "thinks", Text(printable(rationale.thinking), style="dim italic"))
        if rationale.statement:
            grid.add_row("", "states", Text(printable(rationale.statement), style="green"))
        if not rationale.finished:
            grid.add_row("", "", Text(f"(cut off at {rationale.tokens} tokens)", style="yellow"))
        grid.add_row()
    return grid


def _similarities(console: Console, result: DemoResult) -> RenderableType:
    row_names = [result.texts[index].name for index in result.rows]
    column_names = [result.texts[index].name for index in result.columns]
    width = heatmap_width(row_names, column_names)
    if width > console.width:
        return Text(f"{len(column_names)} columns do not fit here; --json has all the numbers.", style="dim")
    positions = {index: position for position, index in enumerate(result.columns)}

    def panel(title: str, similarity: list[list[float]]) -> RenderableType:
        nearest = result.nearest(similarity)
        drawn = heatmap(
            similarity,
            row_names=row_names,
            column_names=column_names,
            marked={i: positions[nearest[row]] for i, row in enumerate(result.rows)},
            skip_diagonal=result.rows == result.columns,
            colour=has_colour(console),
            unicode=has_unicode(console),
        )
        return Group(Text(title, style="bold"), drawn)

    maps = Table.grid(padding=(0, 4))
    pair = (panel(WITHOUT, result.prompt_similarity), panel(WITH, result.rationale_similarity))
    if 2 * width + 4 <= console.width:
        maps.add_row(*pair)
    else:
        maps.add_row(pair[0])
        maps.add_row()
        maps.add_row(pair[1])
    legend = "Cosine similarity in hundredths; * is the largest of its row."
    if result.rows != result.columns:
        legend += " Each query's own document lies on the diagonal."
    return Group(maps, Text(f"\n{legend}", style="dim"))


def _neighbours(console: Console, result: DemoResult) -> RenderableType:
    without, with_ = result.nearest(result.prompt_similarity), result.nearest(result.rationale_similarity)
    judged = any(result.texts[row].answer for row in result.rows)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="bold")
    for title in ("closest to", WITHOUT, WITH):
        table.add_column(title, ratio=1, no_wrap=True, overflow="ellipsis")
    for row in result.rows:
        text = result.texts[row]
        table.add_row(
            Text.assemble((text.name, "cyan"), " ", _on_one_line(text.text)),
            *(_verdict(console, result, row, nearest[row]) for nearest in (without, with_)),
        )
    if not judged:
        return table
    of = len(result.rows)
    summary = Text.assemble(
        "\nThe right document comes first for ",
        (f"{result.right(without)} of {of}", "bold"),
        f" {WITHOUT} and for ",
        (f"{result.right(with_)} of {of}", "bold green"),
        f" {WITH}.",
    )
    return Group(table, summary)


def _verdict(console: Console, result: DemoResult, row: int, column: int) -> Text:
    found, answer = result.texts[column], result.texts[row].answer
    if answer is None:
        return Text.assemble((found.name, "cyan"), " ", _on_one_line(found.text))
    right = found.name == answer
    mark = ("✓" if right else "✗") if has_unicode(console) else ("yes" if right else "no")
    return Text.assemble((mark, "bold green" if right else "bold red"), " ", (found.name, "cyan"), " ", found.text)


def _footer(result: DemoResult) -> RenderableType:
    tokens = sum(rationale.tokens for rationale in result.rationales)
    timing = Text(
        f"{len(result.texts)} texts and {tokens} rationale tokens in {result.seconds_rationale:.1f} s; "
        f"without rationales {result.seconds_prompt:.1f} s; loading {result.seconds_load:.1f} s.",
        style="dim",
    )
    steps = Table.grid(padding=(0, 2))
    steps.add_column(style="cyan", no_wrap=True)
    steps.add_column()
    steps.add_row('grace-st demo --text "..." "..."', "your own texts")
    steps.add_row("grace-st convert MODEL FOLDER", "any causal language model")
    steps.add_row("grace-st demo --model FOLDER", "this page, with that model")
    return Group(timing, Padding(Panel(steps, title="Next", title_align="left", border_style="cyan"), (1, 0, 0, 0)))


def _on_one_line(text: str) -> str:
    return " ".join(printable(text).split())
