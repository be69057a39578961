"""The weights of a causal LM, from safetensors only: a pickle can run code when it is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from sentence_transformers.util import load_file_path
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import find_adapter_config_file

_SUFFIX = ".safetensors"
_INDEX = ".safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def load_causal_lm(source: str, model_kwargs: Mapping[str, Any], hub: Mapping[str, Any]) -> PreTrainedModel:
    """Load the weights of a causal LM, from safetensors only.

    Args:
        source: Folder or hub name; a folder that is a PEFT adapter loads its base model as well.
        model_kwargs: For ``from_pretrained``.
        hub: Where and how to look: token, revision, cache_dir, ...

    Returns:
        The model in evaluation mode, in the checkpoint's dtype unless ``model_kwargs`` names one.

    Raises:
        OSError: There are no safetensors weights, they are damaged, or an index names other files.
        ValueError: ``use_safetensors`` is switched off.
    """
    options = dict(model_kwargs)
    if "torch_dtype" in options:
        options["dtype"] = options.pop("torch_dtype")
    options.setdefault("dtype", "auto")
    if options.setdefault("use_safetensors", True) is not True:
        raise ValueError(
            f"use_safetensors={options['use_safetensors']!r} would read pickled weights, which can run code: leave it "
            "out, and save such a model as safetensors first, with model.save_pretrained(folder)"
        )
    _check_names(source, hub, options.get("variant"))
    try:
        model = AutoModelForCausalLM.from_pretrained(source, **hub, **options)
    except OSError as error:
        if "safetensors" in str(error):
            raise no_safetensors(source) from error
        raise
    except SafetensorError as error:
        raise OSError(
            f"a safetensors file of {source} is damaged, incomplete or of another format ({error}): copy or download "
            "it again"
        ) from error
    return model.eval()


def is_adapter(name: str, hub: Mapping[str, Any]) -> bool:
    """Whether a folder or hub name holds a PEFT adapter instead of a whole model."""
    options = {key: value for key, value in hub.items() if key != "trust_remote_code"}
    return find_adapter_config_file(name, **options) is not None


def load_adapter_merged(name: str, model_kwargs: Mapping[str, Any], hub: Mapping[str, Any]) -> PreTrainedModel:
    """Load a PEFT adapter with its base model, and merge the two; see `load_causal_lm`.

    Raises:
        ImportError: peft is not installed.
        OSError: One of them has no safetensors weights.
        ValueError: It does not say which model it adapts.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise ImportError(f"{name} is a PEFT adapter, which needs peft: pip install 'grace-st[peft]'") from error
    options = {key: value for key, value in hub.items() if key != "trust_remote_code"}
    base_name = PeftConfig.from_pretrained(name, **options).base_model_name_or_path
    if not base_name:
        raise ValueError(f"{name} does not say which model it adapts: set base_model_name_or_path in its config")
    # The base has a revision of its own, and may be on the hub where the adapter is a folder.
    elsewhere = {**hub, "revision": None, "local_files_only": Path(base_name).is_dir()}
    _check_adapter(name, hub)
    base = load_causal_lm(base_name, model_kwargs, elsewhere)
    return PeftModel.from_pretrained(base, name, **options).merge_and_unload()


def _check_adapter(source: str, hub: Mapping[str, Any]) -> None:
    """Check that a PEFT adapter has safetensors weights: peft itself would also read a pickle.

    Raises:
        OSError: It has none.
    """
    if _find(source, ADAPTER_WEIGHTS, hub) is None:
        raise no_safetensors(source)


def no_safetensors(source: str) -> OSError:
    """The error of a checkpoint without safetensors."""
    return OSError(
        f"{source} has no safetensors weights, and others are not read: load it where it is trusted and "
        "save it again with model.save_pretrained(folder)"
    )


def _check_names(source: str, hub: Mapping[str, Any], variant: str | None) -> None:
    """Check the files that transformers is led to by others: it reads a pickle where one of them names it."""
    chosen = _read(source, "config.json", hub).get("transformers_weights")
    index = f"model{_SUFFIX}.index.{variant}.json" if variant else f"model{_INDEX}"
    if chosen is not None:
        if not str(chosen).endswith((_SUFFIX, _INDEX)):
            raise OSError(f"config.json of {source} names the weights {chosen!r}: only safetensors are read")
        index = str(chosen)
    if not index.endswith(_SUFFIX):
        named = _read(source, index, hub).get("weight_map", {}).values()
        others = sorted({str(name) for name in named if not str(name).endswith(_SUFFIX)})
        if others:
            raise OSError(
                f"{index} of {source} names {others[0]!r}, and only safetensors are read: load the model where it is "
                "trusted and save it again with model.save_pretrained(folder)"
            )
    base = _read(source, "adapter_config.json", hub).get("base_model_name_or_path")
    if base and base != source:
        # The base has a revision of its own, and may be on the hub where the adapter is a folder.
        elsewhere = {**hub, "revision": None, "subfolder": "", "local_files_only": Path(base).is_dir()}
        _check_names(str(base), elsewhere, None)


def _read(source: str, filename: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON file of a checkpoint; empty where there is none, or where it is for transformers to refuse."""
    path = _find(source, filename, hub)
    if path is None:
        return {}
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _find(source: str, filename: str, hub: Mapping[str, Any]) -> str | None:
    return load_file_path(
        source,
        filename,
        subfolder=hub.get("subfolder") or "",
        token=hub.get("token"),
        cache_folder=hub.get("cache_dir"),
        revision=hub.get("revision"),
        local_files_only=bool(hub.get("local_files_only")),
    )
