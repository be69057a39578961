"""What a card says about the settings of a model: from a folder's files, without its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grace_st.config import CONFIG_NAME, DEFAULT_SYSTEM_PROMPT, GraceConfig
from grace_st.model_files import MODULES_NAME, ST_CONFIG_NAME, check_model_folder

SIMILARITIES = {
    "cosine": "Cosine Similarity",
    "dot": "Dot Product",
    "euclidean": "Euclidean Distance",
    "manhattan": "Manhattan Distance",
}
"""The similarities of sentence-transformers, as its own cards write them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The table of a card.

    Attributes:
        architecture: Class of the causal LM.
        modules: Names of the sentence-transformers modules, in their order.
        dimension: ``d`` of the vectors.
        similarity: How they are compared.
        max_seq_length: Longest prompt in tokens.
        max_new_tokens: Longest rationale in tokens.
        pooling: See `grace_st.GraceConfig`.
        pooling_span: See `grace_st.GraceConfig`.
        system_prompt: The message that asks for a rationale, if there is one.
        prompts: Instructions by name, each as one line of Markdown.
    """

    architecture: str
    modules: str = "GenerateThenPool"
    dimension: int
    similarity: str = SIMILARITIES["cosine"]
    max_seq_length: int
    max_new_tokens: int
    pooling: str = "mean"
    pooling_span: str = "text_and_rationale"
    system_prompt: str | None = DEFAULT_SYSTEM_PROMPT
    prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def asks_for_think(self) -> bool:
        """Whether rationales have the paper's form."""
        return self.system_prompt is not None and "<think>" in self.system_prompt


def shown_prompts(prompts: Mapping[str, str | None]) -> dict[str, str]:
    """Instructions that say something, as one line each in which a table's bar is no bar."""
    return {
        name: "`" + json.dumps(text, ensure_ascii=False).replace("|", "\\|") + "`"
        for name, text in prompts.items()
        if text
    }


def folder_settings(folder: Path) -> Settings:
    """The settings of a model folder.

    Raises:
        FileNotFoundError: It is no GRACE model folder.
        ValueError: A configuration in it cannot be used.
    """
    check_model_folder(folder, MODULES_NAME, "config.json")
    config = GraceConfig.from_file(folder / CONFIG_NAME)
    modules = read_json(folder / MODULES_NAME, list)
    model = read_json(folder / "config.json", dict)
    path = folder / ST_CONFIG_NAME
    library = read_json(path, dict) if path.is_file() else {}
    similarity = library.get("similarity_fn_name") or "cosine"
    try:
        names = [str(module["type"]).rpartition(".")[2] for module in modules]
        places = [str(module["path"]) for module in modules]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / MODULES_NAME} must hold modules with a type and a path: save it again") from error
    return Settings(
        architecture=str((model.get("architectures") or [model.get("model_type", "unknown")])[0]),
        modules=", ".join(names),
        dimension=_dimension(folder, model, places),
        similarity=SIMILARITIES.get(similarity, similarity),
        max_seq_length=config.max_seq_length,
        max_new_tokens=config.max_new_tokens,
        pooling=config.pooling,
        pooling_span=config.pooling_span,
        system_prompt=config.system_prompt,
        prompts=shown_prompts(library.get("prompts") or {}),
    )


def hidden_size(model: Mapping[str, Any]) -> int | None:
    """``d`` of a causal LM by its ``config.json``."""
    for part in (model, model.get("text_config") or {}):
        for key in ("hidden_size", "n_embd", "d_model"):
            if key in part:
                return int(part[key])
    return None


def _dimension(folder: Path, model: Mapping[str, Any], places: list[str]) -> int:
    found = hidden_size(model)
    for place in places:
        path = folder / place / "config.json"
        if place and path.is_file():  # a dense layer behind the pooling
            found = read_json(path, dict).get("out_features", found)
    if found is None:
        raise ValueError(f"{folder / 'config.json'} has no hidden_size")
    return int(found)


def read_json(path: Path, kind: type) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: It is not JSON, or holds something else than ``kind``.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError too
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(values, kind):
        raise ValueError(f"{path} must hold a JSON {kind.__name__}, got {type(values).__name__}")
    return values
