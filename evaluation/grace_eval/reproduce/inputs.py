"""What a study needs from outside: models, training data, MTEB's data. Looked for before any work starts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

import grace_st
from grace_eval.reproduce.declare import Cell, Data, Model, Study
from grace_st.fingerprint import folder_revision

BUNDLED = "grace-nano"
STAND_IN = "stand-in-encoder"
"""Names what smoke runs have in the place of an encoder: a small BERT with random weights."""

_DATA_NEEDED: dict[Data, str] = {
    "pairs": (
        "rows with query, positive and negatives: the paper trains on a replication of the public portion of the E5 "
        "data (1.5 M rows, BehnamGhader et al. 2024). Give such a file with --pairs FILE"
    ),
    "texts": (
        "one text a line: the paper trains on SimCSE's Wikipedia sentences. With a network: hf download "
        "princeton-nlp/datasets-for-simcse wiki1m_for_simcse.txt --repo-type dataset --local-dir data; then give "
        "--texts data/wiki1m_for_simcse.txt"
    ),
}


class MissingInputError(FileNotFoundError):
    """A model or data set that a study needs is not here."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where things from outside are.

    Attributes:
        pairs: Rows that supervised runs are trained on; ``nano`` is the bundled model's.
        texts: Texts that unsupervised runs are trained on.
        models: Holds local copies of models, ``ORG/NAME`` as on the hub; None is the hub and its cache.
        data_root: The same for MTEB's data sets.
        engine: Trains GRACE: ``"verl"`` on many GPUs, or ``"local"``.
        seed: Of training.
        changes: ``key=value`` for every training of GRACE.
        device: Where models run; None is the best there is.
    """

    pairs: str | None = None
    texts: str | None = None
    models: Path | None = None
    data_root: Path | None = None
    engine: Literal["local", "verl"] = "verl"
    seed: int = 0
    changes: tuple[str, ...] = ()
    device: str | None = None

    def source(self, model: Model) -> str:
        """Where the model begins: a folder, or a name on the hub."""
        if model.source == BUNDLED:
            return str(grace_st.nano_path())
        if self.models is not None and (self.models / model.source).is_dir():
            return str(self.models / model.source)
        return model.source

    def identity(self, model: Model) -> str:
        """Tells one content of that from another, as far as that can be told without reading weights."""
        if model.source == BUNDLED:
            return folder_revision(grace_st.nano_path())
        return file_identity(Path(self.source(model)))

    def data(self, kind: Data) -> str | None:
        """The file of this kind."""
        return self.pairs if kind == "pairs" else self.texts


def file_identity(path: Path) -> str:
    """A file or folder by names, sizes and times of change; what is none is known by its name."""
    if not path.exists():
        return str(path)
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for item in files:
        stat = item.stat()
        digest.update(f"{item.relative_to(path.parent)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def check(study: Study, cells: Sequence[Cell], inputs: Inputs) -> None:
    """Refuse a study that lacks something, before any work starts.

    Args:
        study: The study.
        cells: Those of it that are still to be done.
        inputs: Where things are.

    Raises:
        MissingInputError: A model or training data are not here; named with what to do.
        grace_eval.mteb.data.MissingDataError: The same for data of MTEB.
    """
    what = f"{study.kind} {study.number}"
    for cell in cells:
        _check_model(what, cell.model, inputs)
    for kind in ("pairs", "texts"):
        needed = any(cell.model.training is not None and cell.model.training.data == kind for cell in cells)
        given = inputs.data(kind)
        if needed and given is None:
            raise MissingInputError(f"{what} needs training data, {_DATA_NEEDED[kind]}")
        if needed and given is not None and "/" in given and not Path(given).expanduser().exists():
            raise MissingInputError(f"there is no file {given}: {_DATA_NEEDED[kind]}")
    tasks: dict[str, Any] = {}
    for cell in cells:
        for measure in cell.measures:
            measure.check(what)
            tasks |= {task.metadata.name: task for task in measure.mteb_tasks()}
    if tasks:
        from grace_eval.mteb.data import check_offline, with_local_data

        if inputs.data_root is None:
            check_offline(list(tasks.values()))
        else:
            with_local_data(list(tasks.values()), inputs.data_root)


def _check_model(what: str, model: Model, inputs: Inputs) -> None:
    source = inputs.source(model)
    if model.source == STAND_IN or Path(source).is_dir():
        return
    local = inputs.models
    if local is None and not constants.HF_HUB_OFFLINE:
        return  # fetched when it is needed
    if local is None:
        try:
            snapshot_download(model.source, local_files_only=True, allow_patterns=["config.json"])
        except LocalEntryNotFoundError:
            pass
        else:
            return
    target = local or Path("models")
    where = f"not in {local}" if local else "not in the cache, and the hub may not be asked (HF_HUB_OFFLINE)"
    raise MissingInputError(
        f"{what} needs the model {model.source}, which is {where}. With a network: hf download {model.source} "
        f"--local-dir {target / model.source}; then the same command with --models {target}"
    )
