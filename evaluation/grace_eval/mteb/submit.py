"""Submission: checked results, mteb's mock run and the source of the metadata, in a folder as upstream takes them.

Nothing is sent. The leaderboard shows a model when two pull requests are merged: one to embeddings-benchmark/mteb with
the model's metadata and the report of a mock run, one to embeddings-benchmark/results with the results.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mteb
from mteb.abstasks import AbsTask
from mteb.mocks.mock_run import MockRunResults
from mteb.models import ModelMeta
from mteb.results.task_result import TaskError

from grace_eval.mteb.benchmarks import TASKS, select_benchmark
from grace_eval.mteb.files import write_whole
from grace_eval.mteb.layout import META_NAME, REVISION, Problem, check_folder, result_files
from grace_eval.mteb.run import HUB, data_source
from grace_st.fingerprint import folder_revision
from grace_st.mteb import GraceEncoder, load_encoder, model_meta

MOCK_NAME = "mteb_mock_run_results.md"
STEPS_NAME = "STEPS.md"


class SubmissionError(ValueError):
    """Results that would not be accepted."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The results to submit.

    Attributes:
        folder: ``results/ORG__MODEL/REVISION``.
        name: ``ORGANIZATION/MODEL``.
        revision: Hash of the model folder's content.
        model: The model folder.
        missing: Tasks without a result, by benchmark, of the benchmarks that were run.
        local_data: Tasks whose data did not come from the hub, and from where, see `run.data_source`.
    """

    folder: Path
    name: str
    revision: str
    model: Path
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    local_data: Mapping[str, str] = field(default_factory=dict)


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


def choose(root: Path, *, name: str | None = None, model: Path | None = None) -> Chosen:
    """The results in a folder that belong to a model as it is now.

    Args:
        root: The results folder of `grace-st eval mteb`.
        name: Of the model, where several have results.
        model: The model folder; by default the one that the last report names.

    Raises:
        FileNotFoundError: There are no results, or none of this model.
        SubmissionError: Several models have results, or the model has changed since.
    """
    results = root / "results"
    models = sorted(path for path in results.iterdir() if path.is_dir()) if results.is_dir() else []
    if not models:
        raise FileNotFoundError(
            f"{root} holds no results (results/ORG__MODEL/REVISION): run `grace-st eval mteb` first"
        )
    names = [path.name.replace("__", "/", 1) for path in models]
    if name is not None and name not in names:
        raise FileNotFoundError(f"{root} holds no results of {name}, but of {', '.join(names)}")
    if name is None and len(models) > 1:
        raise SubmissionError(f"{root} holds results of {', '.join(names)}: choose one with --name")
    own = models[0] if name is None else models[names.index(name)]
    name = own.name.replace("__", "/", 1)
    revisions = sorted(path.name for path in own.iterdir() if path.is_dir())
    reports = _reports(root, own.name)
    if model is None:
        if not reports:
            raise SubmissionError(f"{root} does not say where the model {name} is: name its folder with --model")
        model = Path(reports[-1]["model"]["folder"])
    if not (model / "grace_config.json").is_file():
        raise FileNotFoundError(f"{model} is not a GRACE model folder: name the one of {name} with --model")
    revision = folder_revision(model)
    if revision not in revisions:
        raise SubmissionError(
            f"the results of {name} are of {', '.join(other[:12] for other in revisions) or 'nothing'}, and the model "
            f"in {model} is {revision[:12]}: it has changed since, or is another model. Evaluate it as it is now"
        )
    folder = own / revision
    missing: dict[str, tuple[str, ...]] = {}
    for report in reports:
        if report["model"]["revision"] == revision and not report["model"]["experiment"]:
            wanted = [*report["missing"], *(task["task"] for task in report["tasks"])]
            missing[report["benchmark"]] = tuple(task for task in wanted if not (folder / f"{task}.json").is_file())
    sources = {path.stem: data_source(root, folder.relative_to(results), path.stem) for path in result_files(folder)}
    local = {task: source for task, source in sources.items() if source != HUB}
    return Chosen(folder=folder, name=name, revision=revision, model=model, missing=missing, local_data=local)


def _reports(root: Path, model: str) -> list[dict[str, Any]]:
    """All reports of a model, the last one last; those of experiments first, which count only for where it lies."""
    reports = []
    for path in sorted((root / "reports" / model).glob("**/*.json"), key=lambda path: path.stat().st_mtime):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SubmissionError(f"{path} is not valid JSON ({error}): remove it") from error
        if isinstance(values, dict) and "benchmark" in values and "model" in values:
            reports.append(values)
    return sorted(reports, key=lambda values: not values["model"]["experiment"])


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


def module_name(name: str) -> str:
    """The name of the module that upstream keeps an organization's models in."""
    organization = name.split("/")[0].lower()
    return "".join(letter if letter.isalnum() else "_" for letter in organization) + "_models"


def model_source(meta: ModelMeta) -> str:
    """A module of mteb with the metadata, as ``mteb/models/model_implementations/`` wants it.

    It loads the model with sentence-transformers: vectors are those of `GraceEncoder`, which needs nothing of mteb.
    """
    assert meta.name is not None
    variable = "".join(letter if letter.isalnum() else "_" for letter in meta.name.split("/")[1].lower())
    variable = f"model_{variable}" if variable[0].isdigit() else variable
    values: dict[str, str] = {
        "loader": "SentenceTransformerEncoderWrapper",
        "loader_kwargs": '{"trust_remote_code": True}',
        "similarity_fn_name": "ScoringFunction.COSINE",
    }
    lines = []
    left_out = ("experiment_kwargs", "extra_requirements_groups", "output_dtypes", "n_active_parameters_override")
    for name in type(meta).model_fields:
        if name not in left_out:
            lines.append(f"    {name}={values.get(name, _code(getattr(meta, name)))},")
    body = "\n".join(lines)
    return (
        '"""Models that write a rationale before they embed. They need the package grace-st (pip)."""\n\n'
        "from mteb.models.model_meta import ModelMeta, ScoringFunction\n"
        "from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper\n\n"
        f"{variable} = ModelMeta(\n{body}\n)\n"
    )


def _code(value: Any) -> str:
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(repr(item) for item in sorted(value)) + "}" if value else "set()"
    if isinstance(value, str) and "\n" in value:
        return '"""' + value + '"""'
    return repr(value)


def _counted(tasks: Sequence[str]) -> str:
    some = ", ".join(tasks[:5]) + (", ..." if len(tasks) > 5 else "")
    return f"{len(tasks)} task{'' if len(tasks) == 1 else 's'} ({some})"


def steps_for(chosen: Chosen, *, hub_revision: str | None, meta: ModelMeta) -> str:
    """What remains to be done, in Markdown."""
    unknown = [
        field
        for field in ("license", "release_date", "languages", "training_datasets", "open_weights")
        if getattr(meta, field) is None
    ]
    folder = chosen.folder.parent.name
    steps = []
    if hub_revision is None:
        steps.append(
            f"Publish the model folder as `{chosen.name}` on the hub (`grace-st publish {chosen.model} "
            f"{chosen.name}`), and run this again with `--hub-revision COMMIT`: the leaderboard knows a model by its "
            f"commit there, and the revision in this folder, `{chosen.revision}`, is a hash of the model's files."
        )
    if unknown:
        steps.append(
            f"Fill in {', '.join(unknown)} in `{module_name(chosen.name)}.py` (or give them to this command), in "
            "particular every training set that is a data set of mteb."
        )
    if chosen.local_data:
        steps.append(
            f"The data of {_counted(list(chosen.local_data))} were read from local copies, or it is not known where "
            "from; that they are the revisions which the results name was not checked. Evaluate these tasks again "
            "without `--data-root` and with `--overwrite`, or make sure of the copies yourself."
        )
    for benchmark, missing in chosen.missing.items():
        if missing:
            whose = "tasks that were asked for" if benchmark == TASKS else benchmark
            steps.append(
                f"No results of {_counted(missing)} of {whose}: the leaderboard shows an average only for complete "
                "benchmarks."
            )
    steps += [
        "Open a pull request to https://github.com/embeddings-benchmark/mteb that adds "
        f"`{module_name(chosen.name)}.py` to `mteb/models/model_implementations/`, with the content of `{MOCK_NAME}`.",
        f"Open a pull request to https://github.com/embeddings-benchmark/results that adds `results/{folder}/` of this "
        "folder to its `results/`.",
    ]
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    checked = "Checked: names, layout, sizes, revisions, scores. What remains:"
    return f"# Submission of {chosen.name}, {today}\n\n{checked}\n\n{numbered}\n"
