"""Model folders of a study: converted or trained once, found again by all that they depend on."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grace_st
from grace_eval.files import write_whole
from grace_eval.reproduce.declare import Model, Training
from grace_eval.reproduce.inputs import STAND_IN, Inputs, file_identity
from grace_st.config import CONFIG_NAME
from grace_train.config import TrainConfig
from grace_train.config_files import load_config
from grace_train.training import train

_PLACES = ("model", "output", "data")  # where things are; what is in them counts


def digest_of(values: Any) -> str:
    """16 hexadecimal digits of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


class ModelFolders:
    """The model folders below one folder.

    Args:
        root: Holds them.
        inputs: What they are made from.
        limits: Longest prompt and rationale of a folder that is converted: ``max_seq_length``, ``max_new_tokens``.
    """

    def __init__(self, root: Path, inputs: Inputs, limits: Mapping[str, int]) -> None:
        self.root = root
        self.inputs = inputs
        self.limits = dict(limits)
        self._digests: dict[Model, str] = {}
        self._sources: dict[str, str] = {}

    # ---------------------------------------------------------------- names

    def digest(self, model: Model) -> str:
        """Of all that its weights and its configuration depend on. What it goes on from is a part of itself."""
        if model not in self._digests:
            self._digests[model] = self._digest(model)
        return self._digests[model]

    def _digest(self, model: Model) -> str:
        training = None
        if model.training is not None:
            config = self.config(model, Path("output")).to_dict()
            training = {name: value for name, value in config.items() if name not in _PLACES}
            given = self.inputs.data(model.training.data)
            training["data"] = {**config["data"], "train": file_identity(Path(given)) if given else None}
        return digest_of(
            {
                "source": self._source_identity(model),
                "system_prompt": model.system_prompt,
                "training": training,
                "limits": self.limits,
                "is_encoder": model.is_encoder,
            }
        )

    def _source_identity(self, model: Model) -> str:
        if model.source not in self._sources:
            self._sources[model.source] = self.inputs.identity(model)
        return self._sources[model.source]

    def path(self, model: Model) -> Path | None:
        """Its folder, which need not be there; None for an encoder of the hub, which is loaded by its name."""
        source = Path(self.inputs.source(model))
        if model.is_encoder and model.source != STAND_IN:
            return source if source.is_dir() else None
        if model.training is None and model.system_prompt and (source / CONFIG_NAME).is_file():
            return source
        name = re.sub(r"[^\w.-]+", "-", model.label)
        return self.root / f"{name}-{self.digest(model)[:8]}"

    def is_made(self, model: Model) -> bool:
        """Whether there is nothing left to do."""
        path = self.path(model)
        if path is None or path.parent != self.root:
            return True
        marker = self._marker(path)
        return marker.is_file() and json.loads(marker.read_text(encoding="utf-8"))["digest"] == self.digest(model)

    def _marker(self, path: Path) -> Path:
        return self.root / f"{path.name}.json"

    # ---------------------------------------------------------------- what is done

    def config(self, model: Model, output: Path) -> TrainConfig:
        """The training configuration of a model that is trained."""
        assert model.training is not None
        return load_config(model.training.config, self.changes(model, output))

    def changes(self, model: Model, output: Path) -> list[str]:
        """What is changed in its bundled configuration."""
        training = model.training
        assert training is not None
        made = [f"model={self.inputs.source(model)}", f"output={output}", f"seed={self.inputs.seed}"]
        # What is not given yet has a name to be replaced: without it nothing is run.
        made.append(f"data.train={self.inputs.data(training.data) or training.data.upper()}")
        own = self.inputs.changes if not is_baseline(training) else ()
        device = () if self.inputs.device is None else (f"compute.device={self.inputs.device}",)
        return [*made, *training.changes, *device, *own]

    def commands(self, model: Model) -> list[str]:
        """The commands that make it by hand."""
        path = self.path(model)
        if path is None or path.parent != self.root:
            return []
        if model.source == STAND_IN:
            return [f"(a small BERT with random weights is written to {path})"]
        if model.training is None:
            options = [f"--{name.replace('_', '-')} {value}" for name, value in self.limits.items()]
            if not model.system_prompt:
                options.append("--no-system-prompt")
            return [" ".join(["grace-st convert", self.inputs.source(model), str(path), *options])]
        made: list[str] = []
        before = self._before(model)
        if before is not None:
            made += [*self.commands(before), shlex.join(["cp", "-r", str(self.path(before)), str(path)])]
        words = ["grace-st", "train", model.training.config, *self.changes(model, path), "--resume"]
        return [*made, shlex.join(words)]

    def _before(self, model: Model) -> Model | None:
        """What a run goes on from: one process can, whose checkpoints are in its folder."""
        return model.after if self.inputs.engine == "local" else None

    def make(self, model: Model) -> str:
        """Make what is not there yet; an interrupted training goes on.

        Returns:
            The folder, or the name of an encoder on the hub.

        Raises:
            ValueError, OSError: As `grace_st.convert` and training.
        """
        path = self.path(model)
        if path is None:
            return self.inputs.source(model)
        if self.is_made(model):
            return str(path)
        self.root.mkdir(parents=True, exist_ok=True)
        if model.source == STAND_IN:
            write_stand_in(path)
        elif model.training is None:
            prompt = {} if model.system_prompt else {"system_prompt": None}
            source = self.inputs.source(model)
            grace_st.convert(source, path, overwrite=path.exists(), **self.limits, **prompt)  # type: ignore[arg-type]
        else:
            self._train(model, path)
        write_whole(self._marker(path), json.dumps({"digest": self.digest(model), "label": model.label}) + "\n")
        return str(path)

    def _train(self, model: Model, path: Path) -> None:
        before = self._before(model)
        if before is not None and not path.exists():
            # Its first steps are the same, so the longer run goes on where the shorter one ended.
            partial = path.with_name(f".{path.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self.make(before), partial)
            partial.rename(path)
        train(self.config(model, path), resume=True, quiet=True)


def is_baseline(training: Training) -> bool:
    """Whether it is CL or SimCSE, which write no rationales."""
    return any(change in ("method=cl", "method=simcse") for change in training.changes)


def write_stand_in(folder: Path) -> None:
    """Write a small BERT with random weights, in the place of an encoder that cannot be fetched."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(grace_st.nano_path())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=512,
    )
    bare = folder / "transformer"
    BertModel(config).save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    transformer = Transformer(str(bare), max_seq_length=256)
    model = SentenceTransformer(modules=[transformer, Pooling(128, pooling_mode="mean")], device="cpu")
    model.model_card_data.generate_widget_examples = False
    model.save(str(folder), create_model_card=False)
