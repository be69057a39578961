"""The cells of a study: which are done, and doing those that are left."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grace_eval.files import write_whole
from grace_eval.reproduce.declare import Cell, Study
from grace_eval.reproduce.inputs import Inputs
from grace_eval.reproduce.measures.base import Subject
from grace_eval.reproduce.models import ModelFolders, digest_of

logger = logging.getLogger(__name__)

_PACKAGES = ("grace-st", "torch", "transformers", "sentence-transformers")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is known of a cell.

    Attributes:
        cell: The cell.
        figures: By measure; None where it is not done.
        cause: Why it failed in this run.
    """

    cell: Cell
    figures: Mapping[str, Any] | None
    cause: str | None = None


class Reproduction:
    """A study with what is there of it.

    A cell's figures are kept in ``ROOT/STUDY/cells/NAME.json`` under a digest of all that they depend on: the model
    with its training, how it is read, what is measured. The code is not among it; its versions are kept instead.

    Args:
        study: What is wanted.
        inputs: What it is made from.
        root: The folder of all studies; models are shared below it.
        limits: Of converted folders.
    """

    def __init__(self, study: Study, inputs: Inputs, root: Path, limits: Mapping[str, int]) -> None:
        self.study = study
        self.inputs = inputs
        self.root = root
        self.folder = root / study.name
        self.models = ModelFolders(root / "models", inputs, limits)
        self._causes: dict[str, str] = {}

    def digest(self, cell: Cell) -> str:
        """Of all that a cell's figures depend on."""
        return digest_of(
            {
                "model": self.models.digest(cell.model),
                "reading": asdict(cell.reading),
                "measures": [[type(measure).__name__, asdict(measure)] for measure in cell.measures],  # type: ignore[call-overload]
            }
        )

    def path(self, cell: Cell) -> Path:
        """Of a cell's figures."""
        return self.folder / "cells" / f"{cell.name}.json"

    def result(self, cell: Cell) -> Result:
        """What is known of a cell. Figures of other settings are not its figures."""
        path = self.path(cell)
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["digest"] == self.digest(cell):
                return Result(cell=cell, figures=content["figures"])
        return Result(cell=cell, figures=None, cause=self._causes.get(cell.name))

    def results(self) -> list[Result]:
        """Of all cells, in their order."""
        return [self.result(cell) for cell in self.study.cells]

    def left(self, cells: Sequence[Cell] | None = None) -> list[Cell]:
        """Those that are not done."""
        return [cell for cell in (self.study.cells if cells is None else cells) if self.result(cell).figures is None]

    def commands(self, cell: Cell) -> list[str]:
        """What would be done by hand: making the model, then measuring it."""
        folder = self.models.path(cell.model)
        where = self.inputs.source(cell.model) if folder is None else str(folder)
        options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in cell.reading.config().items())
        data = "" if self.inputs.data_root is None else f"--data-root {self.inputs.data_root}"
        made = self.models.commands(cell.model)
        for measure in cell.measures:
            said = None if cell.model.is_encoder else measure.command(where, options, data)
            made.append(said or f"({measure.kind} of {where}{options and ' with ' + options}: {measure})")
        return made

    def run(
        self,
        cells: Sequence[Cell],
        *,
        keep_going: bool = False,
        on_cell: Callable[[Cell, str], None] = lambda cell, what: None,
    ) -> None:
        """Do cells, one after the other.

        Args:
            cells: Those that are left.
            keep_going: Go on with the next one when one fails.
            on_cell: Called with a cell and what is done with it.

        Raises:
            Exception: That of a cell; what is done is kept.
        """
        for cell in cells:
            try:
                self._do(cell, on_cell)
            except Exception as error:
                cause = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
                self._causes[cell.name] = cause
                error.add_note(f"(in {self.study.name}, cell {cell.name}; what is done is kept: run the same again)")
                if not keep_going:
                    raise
                on_cell(cell, f"failed: {cause}")

    def _do(self, cell: Cell, on_cell: Callable[[Cell, str], None]) -> None:
        began = time.perf_counter()
        if not self.models.is_made(cell.model):
            on_cell(cell, f"making {cell.model.label}")
        source = self.models.make(cell.model)
        made = time.perf_counter()
        on_cell(cell, "measuring")
        work = self.root / "work"
        work.mkdir(parents=True, exist_ok=True)
        subject = Subject(
            source,
            dict(cell.reading.config()),
            is_encoder=cell.model.is_encoder,
            device=self.inputs.device,
            work=work,
            data_root=self.inputs.data_root,
        )
        figures = {measure.kind: measure.measure(subject) for measure in cell.measures}
        content = {
            **({"stamp": self.study.stamp} if self.study.stamp else {}),
            "digest": self.digest(cell),
            "cell": cell.name,
            "labels": dict(cell.labels),
            "figures": figures,
            "seconds": {"making": made - began, "measuring": time.perf_counter() - made},
            "versions": {name: version(name) for name in _PACKAGES},
        }
        write_whole(self.path(cell), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        on_cell(cell, f"done in {time.perf_counter() - began:.0f} s")
