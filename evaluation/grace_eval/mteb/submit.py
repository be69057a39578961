"""Submission: checked results, mteb's mock run and the source of the metadata, in a folder as upstream takes them.

Nothing is sent. The leaderboard shows a model when two pull requests are merged: one to embeddings-benchmark/mteb with
the model's metadata and the report of a mock run, one to embeddings-benchmark/results with the results.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb
from mteb.abstasks import AbsTask
from mteb.mocks.mock_run import MockRunResults
from mteb.models import ModelMeta
from mteb.results.task_result import TaskError

from grace_eval.files import write_whole
from grace_eval.mteb.benchmarks import TASKS, select_benchmark
from grace_eval.mteb.chosen import Chosen, SubmissionError
from grace_eval.mteb.layout import META_NAME, REVISION, Problem, check_folder, result_files
from grace_eval.mteb.upstream import MOCK_NAME, model_source, module_name, steps_for
from grace_st.mteb import GraceEncoder, load_encoder, model_meta

STEPS_NAME = "STEPS.md"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What was prepared.

    Attributes:
        folder: Holds all of it.
        results: Number of result files.
        mock: The mock run.
        steps: What remains to be done, in Markdown.
    """

    folder: Path
    results: int
    mock: MockRunResults
    steps: str


def check(chosen: Chosen) -> list[Problem]:
    """What keeps these results from being accepted."""
    if not result_files(chosen.folder) and (chosen.folder / "experiments").is_dir():
        return [
            Problem(
                path=chosen.folder,
                message="holds scores with other settings than the model's own only: make a model folder with them "
                "(`grace-st convert ... --max-new-tokens N`) and evaluate it as it is",
            )
        ]
    # Experiments are kept inside the revision's folder; they are left out, so they are no problem.
    return [problem for problem in check_folder(chosen.folder, _tasks(chosen)) if problem.path.name != "experiments"]


def _tasks(chosen: Chosen) -> list[AbsTask]:
    """The tasks of the benchmarks that were run, as they count there."""
    names = [name for name in chosen.missing if name != TASKS]
    return [task for name in names for task in select_benchmark(name).tasks]


def prepare(
    chosen: Chosen,
    output: Path,
    *,
    hub_revision: str | None = None,
    fields: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> Submission:
    """Check, run mteb's mock tasks, and write all that upstream asks for.

    Args:
        chosen: The results.
        output: A folder that is not there yet.
        hub_revision: Commit of the model on the hub, which the leaderboard knows it by.
        fields: Fields of `mteb.ModelMeta`: license, release_date, languages, training_datasets, ...
        device: Where the mock run runs.

    Raises:
        SubmissionError: A rule is broken, or a mock task fails.
        FileExistsError: The output is there.
        ValueError: A field or the revision is refused.
    """
    if hub_revision is not None and not REVISION.fullmatch(hub_revision):
        raise ValueError(f"a commit of the hub is 40 hexadecimal digits, got {hub_revision!r}")
    if output.exists():
        raise FileExistsError(f"{output} exists: choose another output")
    problems = check(chosen)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SubmissionError(f"{problems[0]}{more}")
    revision = hub_revision or chosen.revision
    meta = model_meta(
        chosen.model,
        chosen.name,
        loader=load_encoder,
        reference=f"https://huggingface.co/{chosen.name}",
        **(fields or {}),
    )
    mock = run_mock(chosen, meta, device)
    temporary = output.with_name(f".{output.name}.partial")
    if temporary.exists():
        shutil.rmtree(temporary)
    copied = _copy_results(chosen, temporary / "results" / chosen.folder.parent.name / revision, revision)
    write_whole(temporary / MOCK_NAME, mock.to_markdown() + "\n")
    source = model_source(meta.model_copy(update={"revision": revision}))
    write_whole(temporary / f"{module_name(chosen.name)}.py", source)
    steps = steps_for(chosen, hub_revision=hub_revision, meta=meta)
    write_whole(temporary / STEPS_NAME, steps)
    left = check_folder(temporary / "results" / chosen.folder.parent.name / revision, _tasks(chosen))
    if left:
        raise SubmissionError(str(left[0]))
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(output)
    return Submission(folder=output, results=copied, mock=mock, steps=steps)


def run_mock(chosen: Chosen, meta: ModelMeta, device: str | None) -> MockRunResults:
    """Mteb's own check of a model, on data that it makes up.

    Raises:
        SubmissionError: A task fails.
    """
    encoder: GraceEncoder = load_encoder(chosen.name, chosen.revision, device, folder=chosen.model)
    encoder.mteb_model_meta = meta
    mock = mteb.mock_run(encoder)
    failed = [(name, status) for name, status in mock.items() if isinstance(status, TaskError)]
    if failed:
        name, status = failed[0]
        assert isinstance(status, TaskError)
        raise SubmissionError(f"{len(failed)} of mteb's mock tasks fail; the first is {name}: {status.exception}")
    return mock


def _copy_results(chosen: Chosen, target: Path, revision: str) -> int:
    target.mkdir(parents=True)
    paths = result_files(chosen.folder)
    for path in [*paths, *chosen.folder.glob("*.jsonl")]:
        shutil.copy2(path, target / path.name)
    meta = json.loads((chosen.folder / META_NAME).read_text(encoding="utf-8"))
    meta["revision"] = revision
    # Where a folder lies on this machine is nobody's business.
    meta["loader_kwargs"] = {}
    write_whole(target / META_NAME, json.dumps(meta, indent=4) + "\n")
    return len(paths)
