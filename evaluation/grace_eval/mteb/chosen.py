"""Which of the results in a folder are to be submitted: those of one model, as it is now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grace_eval.mteb.layout import result_files
from grace_eval.mteb.results import HUB, data_source
from grace_st.config import CONFIG_NAME
from grace_st.fingerprint import folder_revision


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
        local_data: Tasks whose data did not come from the hub, and from where, see `results.data_source`.
    """

    folder: Path
    name: str
    revision: str
    model: Path
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    local_data: Mapping[str, str] = field(default_factory=dict)


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
    if not (model / CONFIG_NAME).is_file():
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
