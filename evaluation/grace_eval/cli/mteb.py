"""``grace-st eval mteb``. Arguments and results; the work is in ``grace_eval.mteb``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace_eval.cli.models import add_common, model_folder
from grace_eval.cli.with_mteb import with_mteb
from grace_st.cli.command import CommandError
from grace_st.cli.engine import configure_engine, engine_kwargs
from grace_st.cli.models import BUNDLED
from grace_st.cli.sizes import size
from grace_st.cli.terminal import open_console, write_json

if TYPE_CHECKING:
    from grace_eval.mteb.benchmarks import Selection
    from grace_eval.mteb.options import ModelOptions
    from grace_eval.mteb.report import Report
    from grace_eval.mteb.results import Results
    from grace_eval.mteb.run import RunState

HELP = "evaluate a model on tasks of MTEB"
EXAMPLES = (
    "grace-st eval mteb --model models/mine --benchmark eng-v1",
    "grace-st eval mteb --model grace-nano --tasks STSBenchmark --data-root data",
)
EXIT_FAILED_TASKS = 1
_SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--model", metavar="DIR", required=True, help=f"a model folder, or {BUNDLED}, the bundled demonstration model"
    )
    parser.add_argument(
        "--name",
        metavar="ORG/MODEL",
        help="the name that scores are kept under (default: local/ and the folder's name)",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--benchmark",
        metavar="NAME",
        help="eng-v1 (the 56 tasks), eng-v2, grace16 (the paper's 16), or mteb's own name",
    )
    what.add_argument("--tasks", metavar="TASK", nargs="+", help="names of tasks; TASK:SUBSET is one subset of it")
    parser.add_argument(
        "--results", metavar="DIR", default="mteb-results", help="where results are kept (default: %(default)s)"
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="local copies of the data sets, DIR/ORG/NAME as on the hub; no hub is asked"
    )
    parser.add_argument(
        "--compare",
        metavar="DIR",
        help="published results to compare with: results/ of a clone of embeddings-benchmark/results, or a part of it",
    )
    encoding = parser.add_argument_group("encoding")
    encoding.add_argument(
        "--instructions",
        choices=("model", "task", "none"),
        default="model",
        help="what goes before a text: the prompts of the model folder, mteb's instruction of the task, or nothing "
        "(default: %(default)s). Documents never get a query's",
    )
    encoding.add_argument("--max-new-tokens", metavar="N", type=int, help="longest rationale; 0 pools the prompt alone")
    encoding.add_argument(
        "--pooling-span", choices=("text_and_rationale", "rationale"), help="what is pooled (default: the model's)"
    )
    encoding.add_argument("--do-sample", action="store_true", default=None, help="sample rationales (default: greedy)")
    encoding.add_argument("--temperature", metavar="X", type=float, help="with --do-sample: divides the logits")
    encoding.add_argument("--top-p", metavar="X", type=float, help="with --do-sample: smallest set of that probability")
    encoding.add_argument("--top-k", metavar="N", type=int, help="with --do-sample: that many tokens")
    encoding.add_argument("--repetition-penalty", metavar="X", type=float, help="1 is off")
    encoding.add_argument("--seed", metavar="N", type=int, help="with --do-sample: each text has its own from this one")
    run = parser.add_argument_group("run")
    run.add_argument("--store", metavar="FILE", help="where rationales are kept (default: DIR/rationales.sqlite)")
    run.add_argument("--no-store", action="store_true", help="keep no rationales: an interrupted task starts afresh")
    run.add_argument("--store-size", metavar="SIZE", type=size, help="largest size of the store, e.g. 20GB")
    run.add_argument("--overwrite", action="store_true", help="evaluate again what is done")
    run.add_argument("--keep-going", action="store_true", help="go on with the next task when one fails")
    run.add_argument("--quiet", action="store_true", help="no live table and no summary")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the best there is)")
    machine.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights")
    machine.add_argument("--slots", metavar="N", type=int, help="texts decoded at once (default: by device)")
    configure_engine(machine)
    add_common(parser)


@with_mteb
def run(arguments: argparse.Namespace) -> int:
    """Evaluate what is not done, write the report, tell."""
    from grace_eval.mteb.benchmarks import select_benchmark, select_tasks
    from grace_eval.mteb.data import check_offline
    from grace_eval.mteb.results import Results
    from grace_eval.mteb.run import plan, use_local_data
    from grace_eval.mteb.scores import published_scores

    options = _options(arguments)
    selection = select_tasks(arguments.tasks) if arguments.tasks else select_benchmark(arguments.benchmark)
    compared = None if arguments.compare is None else Path(arguments.compare).expanduser()
    published = {} if compared is None else published_scores(compared, selection.tasks)
    meta = options.meta()
    root = Path(arguments.results).expanduser()
    results = Results(root, meta)
    state = plan(selection.tasks, results, overwrite=arguments.overwrite)
    if arguments.data_root is None:
        check_offline([task.task for task in state.tasks if task.status == "waiting"])
    else:
        use_local_data(state, Path(arguments.data_root).expanduser(), root / "datasets-cache")
    _run_tasks(arguments, options, state, results)
    report = _report(arguments, options, selection, state, results, published)
    return _tell(arguments, report, results, root)


def _options(arguments: argparse.Namespace) -> ModelOptions:
    from grace_eval.mteb.options import ModelOptions

    if arguments.no_store and (arguments.store is not None or arguments.store_size is not None):
        raise CommandError("--no-store keeps nothing, so --store and --store-size have no meaning with it")
    store = Path(arguments.store or Path(arguments.results) / "rationales.sqlite").expanduser()
    given = {name: getattr(arguments, name) for name in _SAMPLING}
    return ModelOptions(
        folder=model_folder(arguments.model),
        name=arguments.name or (f"local/{BUNDLED}" if arguments.model == BUNDLED else None),
        instructions=arguments.instructions,
        max_new_tokens=arguments.max_new_tokens,
        pooling_span=arguments.pooling_span,
        sampling={name: value for name, value in given.items() if value is not None},
        dtype=arguments.dtype,
        device=arguments.device,
        engine=arguments.engine,
        engine_kwargs=engine_kwargs(arguments),
        store=None if arguments.no_store else store,
        store_bytes=arguments.store_size,
    )


def _run_tasks(arguments: argparse.Namespace, options: ModelOptions, state: RunState, results: Results) -> None:
    from rich.live import Live

    from grace_eval.mteb.live import LiveTable, shown_score
    from grace_eval.mteb.run import TaskState, run

    console = open_console()
    is_live = console.is_terminal and not (arguments.quiet or arguments.json)

    def tell(task: TaskState) -> None:
        if is_live or arguments.quiet or arguments.json or task.status not in ("done", "failed"):
            return
        said = f"{shown_score(task)} in {task.seconds:.0f} s" if task.status == "done" else f"failed: {task.error}"
        console.print(f"{task.task.metadata.name}: {said}", soft_wrap=True, markup=False)

    def work() -> None:
        run(
            state,
            lambda: options.load(results.meta, state.advance),
            results,
            overwrite=arguments.overwrite,
            keep_going=arguments.keep_going,
            on_task=tell,
        )

    others = results.other_revisions()
    if others and not (arguments.quiet or arguments.json):
        listed = ", ".join(revision[:12] for revision in others)
        console.print(
            f"{results.meta.name} also has results of other content of the model folder ({listed}); they are not used.",
            soft_wrap=True,
            markup=False,
        )
    if is_live:
        with Live(LiveTable(state), console=console, refresh_per_second=2):
            work()
    else:
        work()


def _report(
    arguments: argparse.Namespace,
    options: ModelOptions,
    selection: Selection,
    state: RunState,
    results: Results,
    published: dict[str, Any],
) -> Report:
    from importlib.metadata import version

    from grace_eval.mteb.paper import rows_for
    from grace_eval.mteb.report import Report

    meta = results.meta
    return Report(
        model={
            "name": meta.name,
            "revision": meta.revision,
            "experiment": dict(meta.experiment_kwargs or {}),
            "folder": str(options.folder.resolve()),
            "parameters": meta.n_parameters,
            "dimension": meta.embed_dim,
        },
        benchmark=selection.name,
        wanted=[task.metadata.name for task in selection.tasks],
        scores={task.task.metadata.name: task.score for task in state.tasks if task.score is not None},
        failed={task.task.metadata.name: task.error for task in state.tasks if task.error is not None},
        published=published,
        paper=rows_for(selection.name),
        versions={
            name: version(name) for name in ("grace-st", "mteb", "sentence-transformers", "transformers", "torch")
        },
        local_data=results.local_data(task.task for task in state.tasks if task.score is not None),
    )


def _tell(arguments: argparse.Namespace, report: Report, results: Results, root: Path) -> int:
    from grace_eval.mteb.report import as_dict, write_report
    from grace_eval.mteb.scores import by_category, task_mean

    paths = write_report(report, root / "reports" / results.inside)
    if arguments.json:
        write_json({**as_dict(report), "results": str(results.folder), "reports": [str(path) for path in paths]})
    elif not arguments.quiet:
        console = open_console()
        for name, value in by_category(report.scores.values()).items():
            console.print(f"{name:<12} {100 * value:6.2f}")
        mean = task_mean(report.scores.values())
        if mean is not None:
            console.print(f"{'Task mean':<12} {100 * mean:6.2f}   ({len(report.scores)} of {len(report.wanted)} tasks)")
        console.print(f"Results in {results.folder}, report in {paths[0]}", soft_wrap=True, markup=False)
    return EXIT_FAILED_TASKS if report.failed else 0
