"""What ``grace-st explain`` shows in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from grace_st.cli.heatmap import heatmap, heatmap_width
from grace_st.cli.terminal import has_colour, has_unicode, printable
from grace_st.explain import ExplainedText, Explanation, RankingExplanation

TOWARDS, APART = "blue", "dark_orange3"
BAR_WIDTH = 16
PAIRS = 5


def show(console: Console, explanation: Explanation) -> None:
    """Print why two texts are as close as they are."""
    _cosines(console, explanation)
    _section(console, "What the cosine is made of")
    console.print(_bars(console, explanation.composition().items(), total=explanation.cosine))
    _spans(console, explanation.a, explanation.shares_a, "Text A", "A")
    _spans(console, explanation.b, explanation.shares_b, "Text B", "B")
    _section(console, "Every pair of spans, in hundredths")
    _pairs(console, explanation, "A", "B")
    _footer(console)


def show_ranking(console: Console, ranking: RankingExplanation) -> None:
    """Print why the first documents are the first."""
    documents = ranking.documents
    of = f"{ranking.count} document{'' if ranking.count == 1 else 's'}"
    console.print(Text.assemble(("Query ", "dim"), (_line(ranking.query.text), "bold")))
    _section(console, f"The first {len(documents)} of {of}")
    table = _table("rank", "cosine", "rank without rationales", "id", "document", fold=False)
    for document in documents:
        _row(
            table,
            str(document.rank),
            _number(document.explanation.cosine),
            str(document.prompt_rank),
            _line(str(document.id)),
            _line(document.explanation.b.text),
        )
    console.print(table)
    shares = ranking.query_shares()
    _spans(console, ranking.query, shares[0], "What of the query speaks for the first document", "Q")
    if len(documents) > 1:
        _section(console, "By how much the first is ahead of the second")
        lead = ranking.lead()
        names = [f"Q{index + 1} {_line(span.content)}" for index, span in enumerate(ranking.query.spans)]
        console.print(_bars(console, zip(names, lead, strict=True), total=float(lead.sum()), name="together"))
    _section(console, "The query's spans with those of the first document, in hundredths")
    _pairs(console, documents[0].explanation, "Q", "D")
    _footer(console)


def _cosines(console: Console, explanation: Explanation) -> None:
    change = explanation.cosine - explanation.prompt_cosine
    line = Text.assemble("cosine ", (_number(explanation.cosine), "bold cyan"))
    if explanation.a.rationale_tokens or explanation.b.rationale_tokens:
        line.append(
            f"; without the rationales {_number(explanation.prompt_cosine)} ({_number(change, signed=True)} by them), "
            f"the rationales alone {_number(explanation.rationale_cosine)}"
        )
    console.print(line)


def _section(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(Text(title, style="bold"), align="left", style="cyan"))


def _spans(console: Console, text: ExplainedText, shares: np.ndarray, title: str, letter: str) -> None:
    _section(console, title)
    largest = float(np.abs(shares).max(initial=0))
    table = _table("", "share", "", "part", "span")
    for index, (span, share) in enumerate(zip(text.spans, shares, strict=True), start=1):
        _row(
            table,
            f"{letter}{index}",
            _number(float(share)),
            _bar(console, float(share), largest),
            span.part,
            _line(span.content) or "(not shown)",
        )
    console.print(table)
    unread = len(text.text) - text.characters_read
    if unread:
        console.print(f"The last {unread} characters were not read: the prompt was full.", style="yellow")
    if text.rationale_end == "budget":
        console.print(f"The rationale was cut off at {text.rationale_tokens} tokens.", style="yellow")


def _pairs(console: Console, explanation: Explanation, letter_a: str, letter_b: str) -> None:
    a = [f"{letter_a}{index + 1}" for index in range(len(explanation.a.spans))]
    b = [f"{letter_b}{index + 1}" for index in range(len(explanation.b.spans))]
    if heatmap_width(a, b) > console.width:
        console.print(f"{len(b)} columns do not fit here; --html and --json have them.", style="dim")
    else:
        best = {row: int(column) for row, column in enumerate(explanation.contributions.argmax(axis=1))}
        console.print(
            heatmap(
                explanation.contributions.tolist(),
                row_names=a,
                column_names=b,
                marked=best,
                colour=has_colour(console),
                unicode=has_unicode(console),
            )
        )
    _section(console, "The strongest pairs")
    table = _table("share", "strength", "", "spans")
    for pair in explanation.strongest(PAIRS):
        content = Text(_line(explanation.a.spans[pair.a].content))
        content.append(f"\n{_line(explanation.b.spans[pair.b].content)}")
        _row(table, _number(pair.contribution), _number(pair.strength), f"{a[pair.a]}\n{b[pair.b]}", content)
    console.print(table)


def _footer(console: Console) -> None:
    console.print(
        "\nShares add up to the cosine. Strength is a share with the length of the spans taken out: above the cosine "
        "it pulls up, below it pulls down. States know what comes before them, so a share is no proof of a cause.",
        style="dim",
    )


def _bars(
    console: Console, rows: Iterable[tuple[str, float]], *, total: float, name: str = "together: the cosine"
) -> RenderableType:
    rows = list(rows)
    largest = max((abs(value) for _, value in rows), default=0)
    table = _table("share", "", "")
    for row_name, value in rows:
        _row(table, _number(value), _bar(console, value, largest), row_name)
    _row(table, Text(_number(total), style="bold"), "", Text(name, style="bold"))
    return table


def _table(*titles: str, fold: bool = True) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in titles:
        right = title in ("share", "strength", "cosine") or title.startswith("rank")
        last = fold and title == titles[-1]
        table.add_column(
            title,
            justify="right" if right else "left",
            no_wrap=not last and not title.startswith("rank"),
            overflow="fold" if last else "ellipsis",
        )
    return table


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row; strings are shown as they are, and not read as markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _bar(console: Console, value: float, largest: float) -> Text:
    length = round(BAR_WIDTH * abs(value) / largest) if largest > 0 else 0
    mark = ("█" if value >= 0 else "▒") if has_unicode(console) else ("#" if value >= 0 else "-")
    return Text(mark * length, style=TOWARDS if value >= 0 else APART)


def _number(value: float, *, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}.3f}"


def _line(text: str) -> str:
    return " ".join(printable(text).split())
