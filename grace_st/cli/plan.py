"""``grace-st plan``: what a corpus costs in tokens, hours and storage, from a measured throughput.

Arguments and results; the formula is in ``grace_st.scale.costs``. ``plan_view`` draws the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from grace_st.cli.command import Command, CommandError
from grace_st.cli.models import BUNDLED, model_folder
from grace_st.cli.terminal import open_console, quiet_libraries, write_json
from grace_st.scale import DEFAULT_SHARD_ROWS
from grace_st.scale.costs import VECTOR_BYTES, Corpus, Throughput, costs_of
from grace_st.scale.throughput import VARIANT, measured_throughput, read_throughput, throughput_of

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_COUNT = re.compile(r"(\d[\d_]*(?:\.\d+)?(?:[eE]\+?\d+)?)([KMB]?)")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--texts", metavar="N", type=_count, required=True, help="of the corpus: 1000000, 1e6, 10M, 2B")
    measured = parser.add_argument_group("throughput of one worker, one of the two")
    source = measured.add_mutually_exclusive_group(required=True)
    source.add_argument("--throughput", metavar="FILE", help="JSON that benchmarks/encode.py or --save wrote")
    source.add_argument(
        "--calibrate",
        metavar="DIR",
        help=f"measure it here, on a few texts, with this model folder or {BUNDLED}, the bundled model",
    )
    measured.add_argument(
        "--variant", metavar="NAME", help=f"with --throughput: what was measured (default: {VARIANT})"
    )
    measured.add_argument(
        "--sample", metavar="FILE", help="with --calibrate: texts of the corpus, in any format that `encode` reads"
    )
    measured.add_argument(
        "--sample-texts", metavar="N", type=_count, help="with --calibrate: how many of them (default: 64)"
    )
    measured.add_argument("--field", metavar="NAME", help="with --sample: field or column of the text (default: text)")
    measured.add_argument("--engine", metavar="NAME", help="with --calibrate: see `encode` (default: torch)")
    measured.add_argument(
        "--device", metavar="NAME", help="with --calibrate: cpu, cuda, ... (default: the best there is)"
    )
    measured.add_argument(
        "--max-new-tokens", metavar="N", type=int, help="with --calibrate: longest rationale in tokens"
    )
    measured.add_argument("--save", metavar="FILE", help="with --calibrate: keep the measurement, for --throughput")
    corpus = parser.add_argument_group("corpus")
    corpus.add_argument(
        "--tokens-per-text", metavar="X", type=_number, help="mean, with the end of the template (default: as measured)"
    )
    corpus.add_argument("--rationale-tokens", metavar="X", type=_number, help="mean (default: as measured)")
    corpus.add_argument(
        "--dimensions", metavar="D", type=_count, help="of a vector: the model's hidden size (default: as measured)"
    )
    corpus.add_argument(
        "--dtype",
        choices=tuple(VECTOR_BYTES),
        default="float32",
        help="in which vectors are kept (default: %(default)s)",
    )
    corpus.add_argument("--keep-rationales", action="store_true", help="in the output, as ids and as text")
    corpus.add_argument(
        "--bytes-per-token", metavar="X", type=_number, default=4.0, help="of rationales as text (default: %(default)s)"
    )
    machines = parser.add_argument_group("machines")
    machines.add_argument("--workers", metavar="N", type=_count, default=1, help="default: %(default)s")
    machines.add_argument("--price-per-hour", metavar="X", type=_number, help="of one worker, in any currency")


def _count(text: str) -> int:
    match = _COUNT.fullmatch(text.strip())
    number = float(match[1].replace("_", "")) * _COUNTS[match[2]] if match else 0.0
    if not 1 <= number < 1e18 or number != int(number):
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, such as 1000000, 1e6, 10M or 2B, got {text!r}")
    return int(number)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number >= 0, got {text!r}")
    return number


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    throughput, dimensions = _calibrated(arguments) if arguments.calibrate else _read(arguments)
    dimensions = arguments.dimensions or dimensions
    if dimensions is None:
        raise CommandError(
            f"{arguments.throughput} does not tell the dimensions of a vector: name them with --dimensions, the hidden "
            "size of your model"
        )
    given = {"text_tokens": arguments.tokens_per_text, "rationale_tokens": arguments.rationale_tokens}
    lengths = {name: getattr(throughput, name) if value is None else value for name, value in given.items()}
    corpus = Corpus(
        texts=arguments.texts,
        dimensions=dimensions,
        dtype=arguments.dtype,
        keep_rationales=arguments.keep_rationales,
        bytes_per_token=arguments.bytes_per_token,
        **lengths,
    )
    costs = costs_of(
        corpus,
        throughput,
        workers=arguments.workers,
        price_per_hour=arguments.price_per_hour,
        shard_rows=DEFAULT_SHARD_ROWS,
    )
    from grace_st.cli.plan_view import as_json, show

    if arguments.json:
        write_json(as_json(corpus, throughput, costs, arguments.workers))
    else:
        show(open_console(), corpus, throughput, costs, arguments.workers)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    calibrating = ("sample", "sample_texts", "field", "engine", "device", "max_new_tokens", "save")
    wrong, other = (("variant",), "--calibrate") if arguments.calibrate else (calibrating, "--throughput")
    for name in wrong:
        if getattr(arguments, name) is not None:
            raise CommandError(f"--{name.replace('_', '-')} has no meaning with {other}: leave it out")
    if arguments.field is not None and arguments.sample is None:
        raise CommandError("--field has no meaning without --sample: leave it out")
    if arguments.save is not None and not Path(arguments.save).absolute().parent.is_dir():
        raise CommandError(f"there is no folder {Path(arguments.save).parent}: make it first")


def _read(arguments: argparse.Namespace) -> tuple[Throughput, int | None]:
    return read_throughput(Path(arguments.throughput).expanduser(), arguments.variant or VARIANT)


def _calibrated(arguments: argparse.Namespace) -> tuple[Throughput, int | None]:
    folder = model_folder(arguments.calibrate, "--calibrate")
    texts = _sample(arguments)
    quiet_libraries()
    import torch

    import grace_st

    if folder is None:
        folder = grace_st.nano_path()
        torch.set_num_threads(1)  # as `encode` does
    model = grace_st.load(folder, engine=arguments.engine or "torch", device=arguments.device)
    values = measured_throughput(
        model, texts, name=Path(folder).resolve().name, max_new_tokens=arguments.max_new_tokens
    )
    if arguments.save is not None:
        Path(arguments.save).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return throughput_of(values, VARIANT, "the measurement")


def _sample(arguments: argparse.Namespace) -> list[str]:
    wanted = arguments.sample_texts or 64
    if arguments.sample is None:
        from grace_st.cli.demo_texts import DEMO_TEXTS

        return list(itertools.islice(_numbered([text.text for text in DEMO_TEXTS]), wanted))
    from grace_st.bulk.formats import input_format_of
    from grace_st.bulk.readers import Source
    from grace_st.bulk.rows import BadRows

    path = Path(arguments.sample).expanduser()
    source = Source(path=path, format=input_format_of(path), field=arguments.field or "text")
    source.check()
    rows = BadRows(source.name, skip=True).leave_out(source.rows())
    return [row.text for row in itertools.islice(rows, wanted)]


def _numbered(texts: Sequence[str]) -> Iterator[str]:
    """Texts again and again, no two alike: what is equal is generated once."""
    for number in itertools.count():
        for text in texts:
            yield f"{text} ({number})" if number else text


COMMAND = Command(
    summary="what a corpus costs in tokens, hours and storage",
    description=(
        "Say beforehand what a corpus costs to encode, from a throughput that was measured: with "
        "benchmarks/encode.py, or here with --calibrate. For lengths other than those measured the hours are a range."
    ),
    examples=(
        "grace-st plan --texts 10M --calibrate models/mine --sample corpus.jsonl --workers 8 --save mine.json",
        "grace-st plan --texts 1e9 --throughput mine.json --dtype float16 --workers 64 --price-per-hour 2.5",
    ),
    configure=_configure,
    run=_run,
)
