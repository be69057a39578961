"""What is written for upstream: the module of mteb with a model's metadata, and the steps that remain for a person."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from mteb.models import ModelMeta

from grace_eval.mteb.benchmarks import TASKS
from grace_eval.mteb.chosen import Chosen

MOCK_NAME = "mteb_mock_run_results.md"


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
