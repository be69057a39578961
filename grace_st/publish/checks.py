"""Is a model folder fit to be published under a name? Cheap checks first; nothing is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from grace_st.cards.blocks import blocks_of
from grace_st.cards.folder import CARD_NAME, CardError, read_card, render_folder
from grace_st.cards.names import BACKBONES, Backbone, PlannedModel, reserved
from grace_st.cards.settings import folder_settings, hidden_size, read_json
from grace_st.cards.training import training_record
from grace_st.publish.files import loader_problem, secret_problems, sort_files, weight_problems

_REVISION = re.compile(r"\b[0-9a-f]{40}\b")
_LOADED_NAME = re.compile(r'SentenceTransformer\("[^"\n]*"')
TEXTS = ("The Eiffel Tower at night", "A walk through Paris")


class PublishError(ValueError):
    """A folder or a name that is not published."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        problems: What is wrong, each with what to do; none where all is well.
        notes: What is worth knowing, and keeps nothing from being published.
    """

    name: str
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What would be published, and what keeps it from being.

    Attributes:
        folder: The model folder.
        repo_id: ``ORG/NAME``.
        checks: In the order in which they were made.
        files: Sizes in bytes of what would be uploaded, by path.
        left_out: Entries of the folder that would not.
        card: The README as it would be uploaded; None where it cannot be made.
    """

    folder: Path
    repo_id: str
    checks: Sequence[Check]
    files: dict[str, int] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    card: str | None = None

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong."""
        return [problem for check in self.checks for problem in check.problems]

    @property
    def notes(self) -> list[str]:
        """Everything worth knowing."""
        return [note for check in self.checks for note in check.notes]


def check_name(repo_id: str) -> None:
    """Refuse what is no name on the hub.

    Raises:
        PublishError: Says what a name looks like.
    """
    parts = repo_id.split("/")
    try:
        if len(parts) == 2 and all(parts):
            validate_repo_id(repo_id)
            return
        reason = ""
    except HFValidationError as error:
        reason = f" ({' '.join(str(error).split())})"
    raise PublishError(
        f"{repo_id!r} is no name of a model on the hub: it is ORG/NAME, your user or organization and the model, as in "
        f"my-org/my-model{reason}"
    )


def check_folder(folder: str | os.PathLike[str], repo_id: str) -> Readiness:
    """Everything that can be checked without loading the weights.

    Args:
        folder: The model folder.
        repo_id: ``ORG/NAME``, where it would go.

    Raises:
        PublishError: The name is none.
        FileNotFoundError: It is no GRACE model folder.
    """
    check_name(repo_id)
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    folder_settings(path)  # or it is no model folder, and no list of its files would help
    files = sort_files(path)
    name = repo_id.partition("/")[2]
    page, problem = _page(path, repo_id)
    metadata = _metadata_of(page) if page is not None else {}
    loader = loader_problem(path)
    checks = [
        Check(name="files", problems=[*files.problems, *([loader] if loader else [])]),
        Check(name="weights", problems=list(weight_problems(path, files.upload))),
        Check(name="secrets", problems=list(secret_problems(path, files.upload))),
        Check(name="card", problems=[problem] if problem else list(_card_problems(path, page or "", metadata))),
        _licence(path, name, metadata),
        Check(name="name", problems=list(_name_problems(path, name))),
    ]
    sizes = {item: (path / item).stat().st_size for item in files.upload}
    if page is not None:
        sizes[CARD_NAME] = len(page.encode("utf-8"))
    return Readiness(folder=path, repo_id=repo_id, checks=checks, files=sizes, left_out=files.left_out, card=page)


def _page(folder: Path, repo_id: str) -> tuple[str | None, str | None]:
    """The card as it would be uploaded, or why it cannot be."""
    remedy = f"`grace-st card {folder}` writes one"
    try:
        old = read_card(folder / CARD_NAME)
        if old is None:
            return None, f"there is no {CARD_NAME}: {remedy}"
        if old.is_ours:
            return render_folder(folder, name=repo_id.partition("/")[2], model_id=repo_id), None
        page = (folder / CARD_NAME).read_text(encoding="utf-8-sig")
        return _LOADED_NAME.sub(f'SentenceTransformer("{repo_id}"', page), None
    except (CardError, OSError, ValueError) as error:
        return None, str(error)


def _metadata_of(page: str) -> dict[str, Any]:
    if not page.startswith("---\n"):
        return {}
    try:
        return vars(ModelCard(page).data)
    except (ValueError, TypeError, yaml.YAMLError):  # told by the check of the card
        return {}


def _card_problems(folder: Path, page: str, metadata: dict[str, Any]) -> Iterator[str]:
    write, anew = f"`grace-st card {folder}`", f"`grace-st card {folder} --force`"
    if not metadata:
        yield f"{CARD_NAME} has no head (license, tags, ...) that the hub can read: {anew} writes it"
        return
    if not metadata.get("license"):
        yield f"the card names no licence: `grace-st card {folder} --license NAME`, such as apache-2.0"
    if metadata.get("library_name") != "sentence-transformers":
        yield f"the card does not name the library (library_name: sentence-transformers): {write} writes it"
    if not all(tag in (metadata.get("tags") or ()) for tag in ("grace", "custom_code")):
        yield f"the card lacks the tags grace and custom_code: {write} writes them"
    if "trust_remote_code=True" not in page:
        yield f"the card does not say that loading needs trust_remote_code=True: {anew} writes it"
    if "2510.04506" not in page:
        yield f"the card does not cite the method (arXiv 2510.04506): {anew} writes it"
    measured = blocks_of(page).get("measured")
    if measured is None:
        yield (
            "the card has no place for measured figures (<!-- measured: begin --> to <!-- measured: end -->): "
            f"{anew} writes it"
        )
    elif metadata.get("eval_results"):
        yield from _stale_figures(folder, measured)


def _stale_figures(folder: Path, measured: str) -> Iterator[str]:
    from grace_st.fingerprint import folder_revision

    remedy = f"fill it anew with `grace-st card {folder} --results mteb-results`"
    revisions = _REVISION.findall(measured)
    if not revisions:
        yield f"model-index has figures, and the block `measured` does not say of which revision: {remedy}"
    elif folder_revision(folder) not in revisions:
        yield f"the measured figures are of other weights ({revisions[0][:12]}) than the folder's: {remedy}"


def _licence(folder: Path, name: str, metadata: dict[str, Any]) -> Check:
    base = metadata.get("base_model")
    base = base[0] if isinstance(base, list) and base else base
    backbone = BACKBONES.get(base) if isinstance(base, str) else None
    if backbone is None:
        return Check(name="licence")
    licence = backbone.licence
    problems, notes = [], []
    if metadata.get("license") and (metadata["license"], metadata.get("license_name")) != (
        licence.identifier,
        licence.name,
    ):
        wanted = f"license: {licence.identifier}" + (f", license_name: {licence.name}" if licence.name else "")
        problems.append(f"the card's licence is not that of {base}, {licence.title} ({wanted}): correct its head")
    if licence.notice is not None:
        if not any((folder / f"LICENSE{end}").is_file() for end in ("", ".txt", ".md")):
            problems.append(f"{licence.title} wants a copy of it in the folder: save {licence.link} as LICENSE")
        notices = [folder / f"NOTICE{end}" for end in ("", ".txt", ".md")]
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in notices if path.is_file()]
        if not any(" ".join(licence.notice.split()) in " ".join(text.split()) for text in texts):
            problems.append(f"{licence.title} wants a file NOTICE in the folder with the line: {licence.notice}")
    if licence.name_begins and not name.startswith(licence.name_begins):
        notes.append(f"{licence.title} asks for a name that begins with {licence.name_begins}, and this is {name}")
    return Check(name="licence", problems=problems, notes=notes)


def _name_problems(folder: Path, name: str) -> Iterator[str]:
    """A name of the paper's models belongs to a model that was trained as they are."""
    model = reserved(name)
    if model is None:
        return
    title = f"{model.name} is the name of {model.backbone.title} after {model.mode} GRACE training"
    remedy = f"choose another name, or train it: `{model.command}`"
    if not _is_backbone(folder, model.backbone):
        yield f"{title}, and this folder holds another model: choose another name"
    record = training_record(folder)
    if record is None:
        yield f"{title}, and this folder shows no sign of it (no training/summary.json): {remedy}"
    elif record.method != "grace":
        yield f"{title}, and this one was trained by the baseline {record.method}: choose another name"
    elif record.steps < 1 or record.kept_step < 1:
        yield f"{title}, and this run kept the weights that it started from: {remedy}"
    elif record.mode != model.mode:
        yield f"{title}, and this one is {record.mode}: publish it as {_sibling(model)}"


def _sibling(model: PlannedModel) -> str:
    name = model.name.removesuffix("-unsupervised")
    return f"{name}-unsupervised" if model.mode == "supervised" else name


def _is_backbone(folder: Path, backbone: Backbone) -> bool:
    config = read_json(folder / "config.json", dict)
    found = (config.get("architectures") or [None])[0], hidden_size(config), config.get("num_hidden_layers")
    return found == (backbone.architecture, backbone.hidden_size, backbone.layers)


def check_loading(folder: Path, *, device: str | None = None) -> Check:
    """Load the folder as users of sentence-transformers do, and encode two texts with a few tokens each.

    Args:
        folder: The model folder.
        device: Where; None takes the best device there is.
    """
    import numpy as np
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(str(folder), trust_remote_code=True, local_files_only=True, device=device)
        vectors = np.asarray(model.encode(list(TEXTS), max_new_tokens=8, show_progress_bar=False))
        expected = (len(TEXTS), folder_settings(folder).dimension)
        if vectors.shape != expected:
            return Check(name="loading", problems=[f"two texts gave vectors {vectors.shape}, expected {expected}"])
        if not np.isfinite(vectors).all():
            return Check(name="loading", problems=["it encodes to NaN or infinity: its weights are damaged"])
    except Exception as error:
        # Any library below may fail in any way on a damaged folder; whichever it was, the folder is not published.
        reason = " ".join(str(error).split())[:300] or "no reason given"
        return Check(name="loading", problems=[f"it does not load and encode ({type(error).__name__}: {reason})"])
    return Check(name="loading")
