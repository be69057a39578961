"""``grace-st explain``: why two texts are as close as they are, or why a document comes first for a query.

Arguments and results; the work is in ``grace_st.explain``. ``explain_view`` draws the terminal's view.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from grace_st.bulk.formats import INPUT_FORMATS, input_format_of
from grace_st.cli.command import Command, CommandError
from grace_st.cli.models import BUNDLED, model_folder
from grace_st.cli.terminal import open_console, quiet_libraries, write_json

if TYPE_CHECKING:
    from grace_st.bulk.readers import Source
    from grace_st.bulk.rows import Row
    from grace_st.explain import Explanation, RankingExplanation
    from grace_st.model import GraceModel

DEFAULT_TOP = 5


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="two texts; or, with --documents, one query")
    parser.add_argument(
        "--model",
        metavar="DIR",
        default=BUNDLED,
        help="a model folder made by `grace-st convert` (default: the bundled demonstration model)",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page that shows everything, and needs no network")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    ranking = parser.add_argument_group("a query against documents")
    ranking.add_argument("--documents", metavar="FILE", help="a file of documents, as `grace-st encode` reads them")
    ranking.add_argument(
        "--top", metavar="K", type=int, help=f"how many of the first are explained (default: {DEFAULT_TOP})"
    )
    ranking.add_argument("--input-format", choices=INPUT_FORMATS, help="default: by suffix")
    ranking.add_argument("--field", metavar="NAME", help="field or column of the text (default: text)")
    ranking.add_argument("--id-field", metavar="NAME", help="that of an id (default: the row number, from 0)")
    ranking.add_argument(
        "--on-bad-row",
        choices=("error", "skip"),
        help="a row without a text: stop before any work, or leave it out (default: error)",
    )
    encoding = parser.add_argument_group("encoding")
    encoding.add_argument(
        "--max-new-tokens", metavar="N", type=int, help="longest rationale in tokens (default: the model's)"
    )
    encoding.add_argument(
        "--store",
        metavar="FILE",
        help="keep rationales in this file (NAME.sqlite), and do not generate again what it holds",
    )
    encoding.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the best there is)")


def _run(arguments: argparse.Namespace) -> int:
    documents = _check(arguments)
    folder = model_folder(arguments.model)
    page = None if arguments.html is None else _page_path(arguments.html, overwrite=arguments.overwrite)
    rows = None if documents is None else _rows(documents, skip=arguments.on_bad_row == "skip")

    def work() -> Explanation | RankingExplanation:
        model = _load(arguments, folder)
        options = {} if arguments.max_new_tokens is None else {"max_new_tokens": arguments.max_new_tokens}
        if rows is None:
            text_a, text_b = arguments.texts
            return model.explain(text_a, text_b, store=arguments.store, **options)
        return model.explain_ranking(
            arguments.texts[0],
            [row.text for row in rows],
            ids=[row.id for row in rows] if arguments.id_field is not None else None,
            top_k=DEFAULT_TOP if arguments.top is None else arguments.top,
            store=arguments.store,
            show_progress_bar=sys.stderr.isatty() and not arguments.json,
            **options,
        )

    # A progress bar shows that many documents are encoded; a status would write over it.
    result = work() if arguments.json or rows is not None else _with_status(work)
    if page is not None:
        _write(page, result.to_html())
    _tell(arguments, result)
    return 0


def _with_status(work: Callable[[], Explanation | RankingExplanation]) -> Explanation | RankingExplanation:
    with open_console().status("Loading the model and encoding ..."):
        return work()


def _tell(arguments: argparse.Namespace, result: Explanation | RankingExplanation) -> None:
    if arguments.json:
        write_json(result.to_dict())
        return
    from grace_st.cli.explain_view import show, show_ranking
    from grace_st.explain import Explanation

    console = open_console()
    if isinstance(result, Explanation):
        show(console, result)
    else:
        show_ranking(console, result)
    if arguments.html is not None:
        console.print(f"\nThe page is in {arguments.html}", markup=False, soft_wrap=True)


def _check(arguments: argparse.Namespace) -> Source | None:
    """Refuse what does not go together. Returns where documents are, if there are some."""
    count = len(arguments.texts)
    if arguments.documents is None:
        for name in ("top", "input_format", "field", "id_field", "on_bad_row"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise CommandError(f"{option} is about documents: name their file with --documents FILE")
        if count != 2:
            raise CommandError(
                f"two texts are compared, and {count} {'was' if count == 1 else 'were'} given: quote each text; to "
                "compare one query with many documents add --documents FILE"
            )
    elif count != 1:
        raise CommandError(f"one query is compared with the documents, and {count} texts were given: quote the query")
    if arguments.top is not None and arguments.top < 1:
        raise CommandError(f"--top must be an integer >= 1, got {arguments.top}")
    if arguments.overwrite and arguments.html is None:
        raise CommandError("--overwrite is about the page: name its file with --html FILE")
    if arguments.documents is None:
        return None
    path = Path(arguments.documents).expanduser()
    if not path.exists():
        raise CommandError(f"there is no file {path}")
    input_format = arguments.input_format or input_format_of(path)
    if arguments.field is not None and input_format == "text":
        raise CommandError("plain text has no fields, so --field has no meaning: leave it out")

    from grace_st.bulk.readers import Source

    source = Source(path=path, format=input_format, field=arguments.field or "text", id_field=arguments.id_field)
    source.check()
    return source


def _rows(source: Source, *, skip: bool) -> list[Row]:
    from grace_st.bulk.rows import BadRows

    return list(BadRows(source.name, skip=skip).leave_out(source.rows()))


def _page_path(name: str, *, overwrite: bool) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        raise CommandError(f"{path} is a folder: name a file for the page")
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists: name another file, or replace it with --overwrite")
    if not path.absolute().parent.is_dir():
        raise CommandError(f"there is no folder {path.absolute().parent}, so the page cannot be written to {path}")
    return path


def _write(path: Path, page: str) -> None:
    """Write a file whole or not at all."""
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.absolute().parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(page)
        umask = os.umask(0)
        os.umask(umask)
        Path(partial).chmod(0o666 & ~umask)  # what a file would have that is made the ordinary way
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _load(arguments: argparse.Namespace, folder: Path | None) -> GraceModel:
    quiet_libraries()
    import torch

    import grace_st
    from grace_st.engines.base import Sampling

    if arguments.max_new_tokens is not None:
        Sampling(max_new_tokens=arguments.max_new_tokens)  # refuses what is wrong before weights are loaded
    if folder is None:
        # Its matrices are so small that a second thread costs more than it saves: much more on a busy machine.
        torch.set_num_threads(1)
    return grace_st.load(grace_st.nano_path() if folder is None else folder, device=arguments.device)


COMMAND = Command(
    summary="why two texts are this close, or why a document comes first",
    description=(
        "Split the cosine of two texts exactly into shares of their sentences and of the sentences of their "
        "rationales, and show what the rationales changed. With --documents, rank documents for a query, and show what "
        "of the query speaks for which. Needs a model with mean pooling."
    ),
    examples=(
        'grace-st explain "a country governed from Paris" "France lies in Western Europe." --html why.html',
        'grace-st explain "text a" "text b" --model models/mine --json',
        'grace-st explain "somewhere with deep fjords" --documents corpus.jsonl --field body --id-field id --top 3',
    ),
    configure=_configure,
    run=_run,
    intermixed=True,
)
