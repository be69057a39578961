"""``grace-st data``: training data looked at before they are trained on.

Arguments and results; the work is in ``grace_train.data``. ``data_view`` draws the report.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from grace_st.bulk.formats import COMPRESSED, INPUT_FORMATS
from grace_st.cli.command import Command, CommandError
from grace_st.cli.models import BUNDLED
from grace_st.cli.terminal import open_console, quiet_libraries, write_json
from grace_train.data.config import MODES, Mode, SourceConfig

if TYPE_CHECKING:
    from grace_train.data.check import TokenLimit

EXIT_BAD_ROWS = 1

_FIELDS = {
    "query": "the query (default: query)",
    "positive": "the positives, a text or a list of texts (default: positive or positives)",
    "negative": "the negatives, a text or a list of texts (default: negative or negatives, if there)",
    "text": "the text in unsupervised training (default: text)",
}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("check",), metavar="check", help="read every row and report")
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a file (.jsonl, .csv, .tsv, .txt, also with .gz; .parquet), a folder saved by datasets, a "
        "data set on the hub (owner/name, or owner/name@revision), or nano for the bundled data",
    )
    parser.add_argument(
        "--mode", choices=MODES, help="what it is to be used for (default: supervised; unsupervised for plain text)"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="measure texts in this model's tokens as well: a model folder, a causal language model (a folder, or a "
        f"name on the hub), or {BUNDLED}, the bundled one",
    )
    parser.add_argument(
        "--max-seq-length",
        metavar="N",
        type=_positive,
        help="with --model: longest prompt in tokens, as prompt.max_seq_length in training (default: the model's)",
    )
    for role, help_ in _FIELDS.items():
        parser.add_argument(f"--{role}-field", metavar="NAME", help=f"field of {help_}")
    parser.add_argument("--format", choices=INPUT_FORMATS, help="how the file is read (default: by suffix)")
    parser.add_argument("--split", metavar="NAME", help="split of a data set (default: train)")
    parser.add_argument("--subset", metavar="NAME", help="subset of a data set on the hub")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    names = ("format", "split", "subset", *(f"{role}_field" for role in _FIELDS))
    config = SourceConfig(path=arguments.file, **{name: getattr(arguments, name) for name in names})
    limit = _limit(arguments)

    from grace_train.cli.data_view import show
    from grace_train.data.check import as_json, check_source

    report = check_source(config, _mode(arguments), limit=limit, option_name=_option_name)
    if arguments.json:
        write_json(as_json(report))
    else:
        show(open_console(), report)
    return EXIT_BAD_ROWS if report.bad_rows else 0


def _option_name(name: str, value: str) -> str:
    return f"--{name.replace('_', '-')} {value}"


def _mode(arguments: argparse.Namespace) -> Mode:
    if arguments.mode is not None:
        given: Mode = arguments.mode
        return given
    name = arguments.file.lower().removesuffix(COMPRESSED)
    is_text = arguments.format == "text" or (arguments.format is None and name.endswith(".txt"))
    return "unsupervised" if is_text else "supervised"


def _limit(arguments: argparse.Namespace) -> TokenLimit | None:
    if arguments.model is None:
        if arguments.max_seq_length is not None:
            raise CommandError("--max-seq-length counts tokens, which needs --model")
        return None
    quiet_libraries()
    import grace_st
    from grace_train.data.tokens import token_limit

    is_bundled = arguments.model == BUNDLED and not Path(arguments.model).is_dir()
    return token_limit(str(grace_st.nano_path()) if is_bundled else arguments.model, arguments.max_seq_length)


COMMAND = Command(
    summary="check training data before training",
    description=(
        "Read a file of training data as training would, and report bad rows, lengths, duplicates and false negatives. "
        "The exit code is 0 if every row can be used, 1 if some cannot, and 2 if the file as a whole cannot be used."
    ),
    examples=(
        "grace-st data check pairs.jsonl --query-field question --positive-field answer",
        "grace-st data check wiki.txt --model grace-nano",
        "grace-st data check nano --json",
    ),
    configure=_configure,
    run=_run,
)
