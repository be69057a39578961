"""What ``grace-st convert`` shows: the decisions it took, the prompt, and how to use the folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from grace_st.cli.terminal import count, printable

if TYPE_CHECKING:
    from grace_st import Conversion

_TEMPLATES = {
    "chat": "chat template, with the message as its system turn",
    "chat_user": "chat template without a system turn: the message stands before the text",
    "plain": "plain text, since the model has no chat template",
}


def show(console: Console, source: str, destination: str, conversion: Conversion, eos_tokens: Sequence[str]) -> None:
    """Print what a conversion decided.

    Args:
        console: Where to.
        source: The model as the user named it.
        destination: The folder as the user named it.
        conversion: The result of ``grace_st.convert``.
        eos_tokens: The tokens that end a rationale, in the order of ``config.eos_token_ids``.
    """
    console.print(Text.assemble((source, "bold"), " is now ", (destination, "bold"), "\n"))
    console.print(_decisions(conversion, eos_tokens))
    console.print()
    console.print(_prompt(conversion.config.head, conversion.config.tail))
    console.print("\nUse it:\n")
    # A broken line would not be Python any more.
    console.print(Syntax("", "python", theme="ansi_dark").highlight(_usage(destination)), soft_wrap=True, end="")


def _decisions(conversion: Conversion, eos_tokens: Sequence[str]) -> Table:
    config = conversion.config
    context = conversion.context_length
    ends = zip(eos_tokens, config.eos_token_ids, strict=True)
    rows = {
        "model": f"{conversion.architecture}, {count(conversion.num_parameters)} parameters",
        "vector": f"{conversion.embedding_dimension} dimensions: {config.pooling} over {config.pooling_span}",
        "prompt": _TEMPLATES[config.template],
        "limits": f"{config.max_seq_length} tokens of prompt and {config.max_new_tokens} of rationale"
        + (f", in a context of {context}" if context else ""),
        "rationale ends at": ", ".join(f"{token} ({token_id})" for token, token_id in ends),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(printable(value)))
    return table


def _prompt(head: str, tail: str) -> Panel:
    text = Text.assemble(
        (printable(head), "dim"), ("[your text]", "bold green"), (printable(tail), "dim"), overflow="fold"
    )
    return Panel(text, title="What the model reads", title_align="left", border_style="cyan")


def _usage(destination: str) -> str:
    folder = json.dumps(destination, ensure_ascii=False)
    return (
        "from sentence_transformers import SentenceTransformer\n"
        f"model = SentenceTransformer({folder}, trust_remote_code=True)\n"
        'vectors = model.encode(["a text", "another text"])'
    )
