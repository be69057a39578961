"""``grace-st demo``: the bundled model at work, with and without its rationales.

Runs the model and collects what there is to see; ``demo_view`` draws it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace_st.cli.command import Command, CommandError
from grace_st.cli.demo_texts import DEMO_TEXTS, DemoText
from grace_st.cli.terminal import open_console, quiet_libraries, write_json

if TYPE_CHECKING:
    from grace_st import Encoding

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True, kw_only=True)
class Rationale:
    """What the model wrote about one text.

    Attributes:
        thinking: The part between ``<think>`` and ``</think>``, or an empty string.
        statement: The part after it.
        tokens: Length in tokens, without the terminating EOS.
        finished: Whether the model ended it itself; otherwise the token budget did.
    """

    thinking: str
    statement: str
    tokens: int
    finished: bool


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything that the demo shows.

    Attributes:
        model: Name of the model folder.
        bundled: Whether this is the model that comes with the package.
        num_parameters: Parameters of the model.
        embedding_dimension: Length of a vector.
        texts: The texts, in the order given.
        rationales: One for each text.
        rows: Indices of the texts that are compared (the queries, or all texts).
        columns: Indices of the texts that they are compared with (the documents, or all texts).
        prompt_similarity: Cosines ``[rows][columns]`` of vectors pooled from the prompt alone.
        rationale_similarity: Cosines ``[rows][columns]`` of vectors pooled from the prompt and the rationale.
        seconds_load: Time to import the libraries and load the model.
        seconds_prompt: Time to encode all texts without a rationale.
        seconds_rationale: Time to encode all texts with one.
    """

    model: str
    bundled: bool
    num_parameters: int
    embedding_dimension: int
    texts: tuple[DemoText, ...]
    rationales: tuple[Rationale, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    prompt_similarity: list[list[float]]
    rationale_similarity: list[list[float]]
    seconds_load: float
    seconds_prompt: float
    seconds_rationale: float

    def nearest(self, similarity: list[list[float]]) -> dict[int, int]:
        """For each row's text, the index of the most similar other text among the columns."""
        best: dict[int, int] = {}
        for row, cosines in zip(self.rows, similarity, strict=True):
            others = [pair for pair in zip(cosines, self.columns, strict=True) if pair[1] != row]
            if others:
                best[row] = max(others, key=lambda pair: pair[0])[1]
        return best

    def right(self, nearest: dict[int, int]) -> int:
        """How many queries have their own document as the nearest one."""
        return sum(self.texts[row].answer == self.texts[column].name for row, column in nearest.items())


def split_rationale(text: str) -> tuple[str, str]:
    """Split a rationale into its thinking and the statement that follows. Either may be empty."""
    before, opened, rest = text.partition(THINK_OPEN)
    if not opened:
        return "", text.strip()
    thinking, _, statement = rest.partition(THINK_CLOSE)
    return thinking.strip(), f"{before.strip()} {statement.strip()}".strip()


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="a model folder made by `grace-st convert` (default: the bundled model)",
    )
    parser.add_argument(
        "--text",
        metavar="TEXT",
        nargs="+",
        action="extend",
        help="encode these texts instead of the demo's own",
    )


def _run(arguments: argparse.Namespace) -> int:
    folder = None if arguments.model is None else Path(arguments.model)
    if folder is not None and not folder.is_dir():
        raise CommandError(f"{folder} is not a folder; make one with `grace-st convert SOURCE {folder}`")
    texts = DEMO_TEXTS if arguments.text is None else _own_texts(arguments.text)

    if arguments.json:
        write_json(_as_json(collect(folder, texts)))
        return 0
    from grace_st.cli.demo_view import show

    console = open_console()
    with console.status("Loading the model and encoding ..."):
        result = collect(folder, texts)
    show(console, result)
    return 0


def _own_texts(texts: Sequence[str]) -> tuple[DemoText, ...]:
    return tuple(DemoText(f"T{number}", text) for number, text in enumerate(texts, start=1))


def collect(folder: Path | None, texts: Sequence[DemoText]) -> DemoResult:
    """Load a model, encode the texts with and without rationales, and compare them.

    Args:
        folder: A model folder; the bundled model if None.
        texts: Queries (texts with an ``answer``) are compared with the others. Without any query, all texts
            are compared with each other.
    """
    started = time.perf_counter()
    quiet_libraries()
    import numpy as np
    import torch

    import grace_st

    bundled = folder is None
    if bundled:
        # Its matrices are so small that a second thread costs more than it saves: much more on a busy machine.
        torch.set_num_threads(1)
    model = grace_st.load(grace_st.nano_path() if folder is None else folder)
    loaded = time.perf_counter()

    contents = [text.text for text in texts]
    prompt_vectors = np.asarray(model.encode(contents, max_new_tokens=0, show_progress_bar=False))
    prompt_only = time.perf_counter()
    encodings = model.encode_with_rationales(contents)
    finished = time.perf_counter()
    vectors = np.stack([np.asarray(encoding.embedding) for encoding in encodings])

    queries = tuple(index for index, text in enumerate(texts) if text.answer is not None)
    every = tuple(range(len(texts)))
    rows = queries or every
    columns = tuple(index for index in every if index not in queries)

    def similarity(of: np.ndarray) -> list[list[float]]:
        values: list[list[float]] = model.similarity(of[list(rows)], of[list(columns)]).tolist()
        return values

    return DemoResult(
        model="grace-nano" if folder is None else folder.name,
        bundled=bundled,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        embedding_dimension=int(vectors.shape[1]),
        texts=tuple(texts),
        rationales=tuple(_rationale(encoding) for encoding in encodings),
        rows=rows,
        columns=columns,
        prompt_similarity=similarity(prompt_vectors),
        rationale_similarity=similarity(vectors),
        seconds_load=loaded - started,
        seconds_prompt=prompt_only - loaded,
        seconds_rationale=finished - prompt_only,
    )


def _rationale(encoding: Encoding) -> Rationale:
    thinking, statement = split_rationale(encoding.rationale)
    return Rationale(
        thinking=thinking,
        statement=statement,
        tokens=len(encoding.rationale_ids),
        finished=encoding.finished,
    )


def _as_json(result: DemoResult) -> dict[str, Any]:
    def view(similarity: list[list[float]]) -> dict[str, Any]:
        nearest = result.nearest(similarity)
        return {
            "similarity": [[round(cosine, 6) for cosine in row] for row in similarity],
            "nearest": {result.texts[row].name: result.texts[column].name for row, column in nearest.items()},
        }

    return {
        "model": result.model,
        "bundled": result.bundled,
        "num_parameters": result.num_parameters,
        "embedding_dimension": result.embedding_dimension,
        "texts": [
            {**asdict(text), **asdict(rationale)}
            for text, rationale in zip(result.texts, result.rationales, strict=True)
        ],
        "rows": [result.texts[index].name for index in result.rows],
        "columns": [result.texts[index].name for index in result.columns],
        "prompt_only": view(result.prompt_similarity),
        "with_rationale": view(result.rationale_similarity),
        "seconds": {
            "load": round(result.seconds_load, 3),
            "prompt_only": round(result.seconds_prompt, 3),
            "with_rationale": round(result.seconds_rationale, 3),
        },
    }


COMMAND = Command(
    summary="see the bundled model write rationales and find documents",
    description=(
        "Encode a dozen texts with the bundled model and show, for each, the rationale that it writes "
        "first, and which texts are closest with and without it. The bundled model is a demonstration of "
        "a few million parameters that knows one small knowledge base; it is not a useful embedder."
    ),
    examples=(
        "grace-st demo",
        'grace-st demo --text "tourists come for port wine" "the metal whose symbol is Fe"',
        "grace-st demo --model models/mine --json",
    ),
    configure=_configure,
    run=_run,
)
