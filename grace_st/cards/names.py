"""The names of GRACE models on the paper's backbones: what each is, and the command that makes it.

A name belongs to a trained model. An untrained conversion of the same backbone never has it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Mode = Literal["supervised", "unsupervised"]


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence of a backbone, which holds for what is trained from it.

    Attributes:
        identifier: As the hub knows it (``license:`` of a card).
        title: As people know it.
        name: ``license_name:`` where the hub has no identifier for it.
        link: Its text.
        terms: What it asks of whoever passes the model on, one paragraph; empty where the text above says all.
        notice: The line that a file ``NOTICE`` in the folder must have; None where it asks for none.
        name_begins: What the name of a published model must begin with; empty where it may be any.
    """

    identifier: str
    title: str
    link: str
    name: str | None = None
    terms: str = ""
    notice: str | None = None
    name_begins: str = ""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A language model that the paper trains.

    Attributes:
        hub_name: Its name on the Hugging Face hub.
        licence: Of its weights.
        architecture: Class of the causal LM.
        hidden_size: ``d``.
        layers: Number of decoder layers.
        config: Its part of the names of bundled training configurations.
    """

    hub_name: str
    licence: Licence
    architecture: str
    hidden_size: int
    layers: int
    config: str

    @property
    def title(self) -> str:
        """Its name without the organization, as in the paper's tables."""
        return self.hub_name.partition("/")[2]


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A model that has a name before anyone has trained it.

    Attributes:
        name: Its name.
        backbone: What it is trained from.
        mode: The data that it is trained on: triples, or single texts.
        max_seq_length: Longest prompt of the paper's runs in tokens.
        max_new_tokens: Longest rationale of the paper's runs in tokens.
    """

    name: str
    backbone: Backbone
    mode: Mode
    max_seq_length: int = 1024
    max_new_tokens: int = 2048

    @property
    def hub_name(self) -> str:
        """Its name on the hub, without an organization: the licence may want another beginning."""
        begins = self.backbone.licence.name_begins
        return self.name.replace("grace-llama", "Llama-grace") if begins else self.name

    @property
    def config(self) -> str:
        """The bundled configuration of the paper's run."""
        return f"verl-{self.backbone.config}" + ("-unsupervised" if self.mode == "unsupervised" else "")

    @property
    def data(self) -> str:
        """The data file, as the commands name it."""
        return "pairs.jsonl" if self.mode == "supervised" else "wiki1m_for_simcse.txt"

    @property
    def command(self) -> str:
        """What trains it, with the paper's settings: four GPUs."""
        return f"grace-st train {self.config} data.train={self.data} output=models/{self.name}"

    @property
    def small_command(self) -> str:
        """What trains adapters on one GPU, with settings of our own."""
        mode = "" if self.mode == "supervised" else " mode=unsupervised"
        return f"grace-st train {self.backbone.config}{mode} data.train={self.data} output=models/{self.name}-lora"


APACHE = Licence(
    identifier="apache-2.0", title="Apache License 2.0", link="https://www.apache.org/licenses/LICENSE-2.0"
)
QWEN_RESEARCH = Licence(
    identifier="other",
    title="Qwen Research License",
    name="qwen-research",
    link="https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE",
    terms=(
        "**Built with Qwen.** This licence allows research and evaluation, and no commercial use. Whoever passes the "
        "model on gives a copy of the agreement (`LICENSE`) and its notice (`NOTICE`) with it."
    ),
    notice=(
        "Qwen is licensed under the Qwen RESEARCH LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. All Rights Reserved."
    ),
)
LLAMA = Licence(
    identifier="llama3.2",
    title="Llama 3.2 Community License",
    link="https://huggingface.co/meta-llama/Llama-3.2-3B-Instruct/blob/main/LICENSE.txt",
    terms=(
        "**Built with Llama.** Whoever passes the model on gives a copy of the agreement (`LICENSE`) and its notice "
        "(`NOTICE`) with it, and a name that begins with “Llama”. Its Acceptable Use Policy holds as well."
    ),
    notice=(
        "Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta Platforms, Inc. All Rights "
        "Reserved."
    ),
    name_begins="Llama",
)

_QWEN_15 = Backbone(
    hub_name="Qwen/Qwen2.5-1.5B-Instruct",
    licence=APACHE,
    architecture="Qwen2ForCausalLM",
    hidden_size=1536,
    layers=28,
    config="qwen2.5-1.5b",
)
_QWEN_3 = Backbone(
    hub_name="Qwen/Qwen2.5-3B-Instruct",
    licence=QWEN_RESEARCH,
    architecture="Qwen2ForCausalLM",
    hidden_size=2048,
    layers=36,
    config="qwen2.5-3b",
)
_LLAMA_3 = Backbone(
    hub_name="meta-llama/Llama-3.2-3B-Instruct",
    licence=LLAMA,
    architecture="LlamaForCausalLM",
    hidden_size=3072,
    layers=28,
    config="llama-3.2-3b",
)
_QWEN_4 = Backbone(
    hub_name="Qwen/Qwen3-4B-Instruct-2507",
    licence=APACHE,
    architecture="Qwen3ForCausalLM",
    hidden_size=2560,
    layers=36,
    config="qwen3-4b",
)

_NAMES = {"grace-1.5b": _QWEN_15, "grace-3b": _QWEN_3, "grace-llama-3b": _LLAMA_3, "grace-4b": _QWEN_4}

BACKBONES: Mapping[str, Backbone] = {backbone.hub_name: backbone for backbone in _NAMES.values()}
"""The paper's backbones by their names on the hub."""

MODELS: Mapping[str, PlannedModel] = {
    model.name: model
    for name, backbone in _NAMES.items()
    for model in (
        PlannedModel(name=name, backbone=backbone, mode="supervised"),
        PlannedModel(name=f"{name}-unsupervised", backbone=backbone, mode="unsupervised"),
    )
}
"""The models of the paper by their names here."""


def planned(name: str, *, unsupervised: bool = False) -> PlannedModel:
    """The model of a name.

    Args:
        name: A key of `MODELS`.
        unsupervised: The model of that backbone that is trained on single texts.

    Raises:
        ValueError: There is no such name.
    """
    wanted = f"{name}-unsupervised" if unsupervised and not name.endswith("-unsupervised") else name
    if wanted not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}? There are" if near else "there are"
        raise ValueError(f"there is no model {name!r}; {hint} {', '.join(MODELS)}")
    return MODELS[wanted]


def reserved(name: str) -> PlannedModel | None:
    """The model whose name this is, in its form here or on the hub, in any case of letters; None where it is free."""
    for model in MODELS.values():
        if name.lower() in (model.name.lower(), model.hub_name.lower()):
            return model
    return None
