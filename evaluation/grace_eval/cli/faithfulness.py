"""``grace-st eval faithfulness``. Arguments and results; the work is in ``grace_eval.faithfulness``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace_eval.cli.models import add_common, is_bundled, model_folder
from grace_st.cli.command import CommandError
from grace_st.cli.models import BUNDLED
from grace_st.cli.terminal import open_console, quiet_libraries, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from grace_eval.faithfulness.measure import Settings, TaskResult
    from grace_eval.faithfulness.report import FaithfulnessReport
    from grace_eval.faithfulness.tasks import Task
    from grace_st.model import GraceModel

HELP = "measure whether a model's embeddings depend on its rationales"
EXAMPLES = (
    "grace-st eval faithfulness --model grace-nano",
    "grace-st eval faithfulness --model models/mine --data pairs.jsonl --max-items 500",
    "grace-st eval faithfulness --model models/mine --tasks STSBenchmark SciFact Banking77Classification",
)
DEFAULT_DATA = "nano:test"
_CONFIG = ("max_new_tokens", "pooling", "pooling_span")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--model", metavar="DIR", required=True, help=f"a model folder, or {BUNDLED}, the bundled demonstration model"
    )
    parser.add_argument(
        "--tasks", metavar="TASK", nargs="+", default=[], help="tasks of MTEB: retrieval, STS and classification"
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        nargs="+",
        default=[],
        help="rows with query and positive (JSON lines, CSV, Parquet) as a retrieval task; nano:dev and nano:test are "
        f"the bundled model's (default, for the bundled model: {DEFAULT_DATA})",
    )
    parser.add_argument("--data-root", metavar="DIR", help="with --tasks: local copies, as for `grace-st eval mteb`")
    parser.add_argument(
        "--output", metavar="DIR", help="where results go (default: faithfulness/ and the model's name)"
    )
    parser.add_argument("--no-card", action="store_true", help="leave the README of the model folder as it is")
    how = parser.add_argument_group("measurement")
    how.add_argument(
        "--side",
        choices=("both", "first"),
        default="both",
        help="whose rationales are changed: all texts', or those of queries, first texts of pairs and texts to be "
        "classified alone (default: %(default)s)",
    )
    how.add_argument("--max-items", metavar="N", type=int, help="most queries, pairs or test texts, evenly spaced")
    how.add_argument(
        "--budgets", metavar="N", type=int, nargs="+", help="tokens of the budget curve (default: powers of two)"
    )
    how.add_argument("--seed", metavar="N", type=int, default=0, help="of orders, donors and random tokens")
    encoding = parser.add_argument_group("encoding")
    encoding.add_argument(
        "--instructions", choices=("model", "task", "none"), default="model", help="as for `grace-st eval mteb`"
    )
    encoding.add_argument("--max-new-tokens", metavar="N", type=int, help="longest rationale (default: the model's)")
    encoding.add_argument("--pooling-span", choices=("text_and_rationale", "rationale"), help="what is pooled")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the best there is)")
    machine.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights")
    machine.add_argument("--slots", metavar="N", type=int, help="texts decoded at once (default: by device)")
    machine.add_argument("--quiet", action="store_true", help="no progress and no summary")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write, tell."""
    from grace_eval.faithfulness.measure import Settings

    folder = model_folder(arguments.model)
    data = list(arguments.data)
    if not data and not arguments.tasks:
        if not is_bundled(folder):
            raise CommandError(
                "nothing to measure on: give --data FILE (rows of query and positive), --tasks with names of MTEB's, "
                f"or --data {DEFAULT_DATA}, what the bundled model is measured on"
            )
        data = [DEFAULT_DATA]
    if arguments.data_root is not None and not arguments.tasks:
        raise CommandError("--data-root holds the data of --tasks: name some")
    settings = Settings(
        side=arguments.side,
        seed=arguments.seed,
        budgets=None if arguments.budgets is None else tuple(sorted(set(arguments.budgets))),
        max_items=arguments.max_items,
    )
    name = BUNDLED if is_bundled(folder) else folder.resolve().name
    output = Path(arguments.output or Path("faithfulness") / re.sub(r"[^\w.-]", "_", name)).expanduser()
    quiet_libraries()
    loaders = _loaders(arguments, data, settings.max_items, output)
    model = _load(arguments, folder)
    with _store(output) as store:
        results = [_measure(arguments, model, load(model), settings, store) for load in loaders]
    return _tell(arguments, _report(model, folder, name, settings, results), output, folder)


def _loaders(
    arguments: argparse.Namespace, data: list[str], max_items: int | None, output: Path
) -> list[Callable[[GraceModel], Task]]:
    """What loads each task. That all of their data are there is seen now, before any work."""
    from grace_eval.faithfulness.tasks import retrieval_task

    loaders: list[Callable[[GraceModel], Task]] = []
    for path in data:
        task = retrieval_task(path, max_items=max_items)
        loaders.append(lambda model, task=task: task)  # type: ignore[misc]
    if not arguments.tasks:
        return loaders
    try:
        from grace_eval.faithfulness import mteb_tasks
    except ModuleNotFoundError as error:
        if error.name != "mteb":
            raise
        raise CommandError("--tasks needs mteb: pip install 'grace-st[mteb]'") from error
    from grace_eval.mteb.data import check_offline, local_copies

    tasks = mteb_tasks.select(arguments.tasks)
    located: Sequence[tuple[Any, Path | None]]
    if arguments.data_root is None:
        check_offline(tasks)
        located = [(task, None) for task in tasks]
    else:
        located = local_copies(tasks, Path(arguments.data_root).expanduser(), output / "datasets-cache")
    for chosen, cache in located:

        def load(model: GraceModel, chosen: Any = chosen, cache: Path | None = cache) -> Task:
            prompts = {key: text for key, text in model.prompts.items() if text}
            found = mteb_tasks.load(chosen, instructions=arguments.instructions, prompts=prompts, cache=cache)
            return found.with_items(max_items)

        loaders.append(load)
    return loaders


def _load(arguments: argparse.Namespace, folder: Path) -> GraceModel:
    import torch

    import grace_st

    if is_bundled(folder):
        # Its matrices are so small that a second thread costs more than it saves.
        torch.set_num_threads(1)
    given = {name: getattr(arguments, name) for name in ("max_new_tokens", "pooling_span")}
    return grace_st.load(
        folder,
        device=arguments.device,
        engine_kwargs=None if arguments.slots is None else {"slots": arguments.slots},
        model_kwargs=None if arguments.dtype is None else {"dtype": arguments.dtype},
        **{name: value for name, value in given.items() if value is not None},
    )


@contextmanager
def _store(output: Path) -> Iterator[Any]:
    from grace_st import RationaleStore

    output.mkdir(parents=True, exist_ok=True)
    store = RationaleStore(output / "rationales.sqlite")
    try:
        yield store
    finally:
        store.close()


def _measure(
    arguments: argparse.Namespace, model: GraceModel, task: Task, settings: Settings, store: Any
) -> TaskResult:
    from tqdm import tqdm

    from grace_eval.faithfulness.measure import measure

    texts = sum(len(set(role.texts)) for role in task.roles)
    is_shown = not (arguments.quiet or arguments.json)
    with tqdm(total=texts, desc=task.name, unit="text", disable=None if is_shown else True) as bar:
        return measure(model, task, settings, store=store, progress=bar.update)


def _report(
    model: GraceModel, folder: Path, name: str, settings: Settings, results: list[TaskResult]
) -> FaithfulnessReport:
    from importlib.metadata import version

    from grace_eval.faithfulness.report import FaithfulnessReport
    from grace_st.encoding import grace_module
    from grace_st.fingerprint import folder_revision

    config = grace_module(model).config
    return FaithfulnessReport(
        model={
            "name": name,
            "revision": folder_revision(folder),
            **{key: getattr(config, key) for key in _CONFIG},
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        settings=settings,
        tasks=results,
        versions={key: version(key) for key in ("grace-st", "sentence-transformers", "transformers", "torch")},
    )


def _tell(arguments: argparse.Namespace, report: FaithfulnessReport, output: Path, folder: Path) -> int:
    from grace_eval.faithfulness.curve import draw_budget_curve
    from grace_eval.faithfulness.report import as_dict, update_card, verdict, write_report

    paths = [*write_report(report, output), *draw_budget_curve(report.tasks, output / "budget-curve")]
    card = folder / "README.md"
    # The bundled model's folder belongs to the package.
    is_written = not (arguments.no_card or is_bundled(folder)) and card.is_file()
    if is_written:
        update_card(report, card)
    if arguments.json:
        write_json(
            {**as_dict(report), "files": [str(path) for path in paths], "card": str(card) if is_written else None}
        )
        return 0
    if arguments.quiet:
        return 0
    console = open_console()
    for task in report.tasks:
        console.print(f"{task.task}: {task.metric} {task.score.mean:.3f} with the rationales as written", markup=False)
        for effect in task.effects:
            change = effect.difference
            console.print(
                f"  {effect.name:<9} {effect.score.mean:6.3f}   {change.mean:+.3f} [{change.low:+.3f}, "
                f"{change.high:+.3f}]   cosine {effect.cosine:.3f}",
                markup=False,
            )
        console.print(verdict(task).replace("**", ""), markup=False, soft_wrap=True)
    where = f", block in {card}" if is_written else f", block of a model card in {output / 'card.md'}"
    console.print(f"Report in {output / 'faithfulness.md'}{where}", markup=False, soft_wrap=True)
    return 0
