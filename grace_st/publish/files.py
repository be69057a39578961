"""Which files of a model folder are published, and what may not lie beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from grace_st.cards.folder import CARD_NAME
from grace_st.cards.settings import read_json
from grace_st.config import CONFIG_NAME
from grace_st.model_files import LOADER_NAME, MODULES_NAME, ST_CONFIG_NAME, loader_stub

LEFT_OUT = ("training", ".git", ".gitattributes", ".cache", "__pycache__")
"""What may be there and is not published: a run's own folder, which names paths of its machine; what tools leave."""

_INDEX = "model.safetensors.index.json"
_KNOWN = frozenset(
    {
        CARD_NAME,
        "LICENSE",
        "LICENSE.txt",
        "LICENSE.md",
        "NOTICE",
        "NOTICE.txt",
        "NOTICE.md",
        "USE_POLICY.md",
        "CITATION.cff",
        "config.json",
        ST_CONFIG_NAME,
        "generation_config.json",
        CONFIG_NAME,
        MODULES_NAME,
        LOADER_NAME,
        _INDEX,
        "model.safetensors",
        "chat_template.jinja",
        "chat_template.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
    }
)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_OTHER_WEIGHTS = (".h5", ".msgpack", ".onnx", ".gguf", ".npz", ".npy", ".ot", ".tflite")
_RUN_STATE = ("optimizer*", "scheduler*", "rng_state*", "trainer_state.json", "training_args*", "events.out.tfevents*")
_SECRET_FILES = (
    ".env*", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", ".netrc", ".git-credentials", ".npmrc", ".pypirc",
    "credentials*", "token", "*.token", "secrets*",
)  # fmt: skip
_SECRETS = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{36}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
_IMAGES = (".png", ".svg", ".jpg", ".jpeg", ".webp")
MOST_TEXT = 100 * 10**6
MOST_IMAGE = 10 * 10**6


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """The files of a folder.

    Attributes:
        upload: Those that are published, as paths in the folder, ascending.
        left_out: Entries that are not.
        problems: What keeps the folder from being published.
    """

    upload: Sequence[str]
    left_out: Sequence[str]
    problems: Sequence[str]


def sort_files(folder: Path) -> Sorted:
    """Sort the entries of a model folder. Nothing is read but configurations and the card.

    Raises:
        ValueError: A configuration is damaged.
    """
    known = set(_KNOWN) | _shards(folder) | _code(folder)
    modules = _module_folders(folder)
    images = _images(folder)
    upload, left_out, problems = [], [], []
    for path in sorted(folder.iterdir()):
        if path.name in LEFT_OUT:
            left_out.append(path.name)
        elif path.is_dir() and not path.is_symlink() and path.name in modules:
            for inner in sorted(path.rglob("*")):
                is_data = inner.suffix in (".json", ".safetensors")
                problem = _problem(inner, allowed=is_data, most=None, is_inside=True)
                name = inner.relative_to(folder).as_posix()
                if problem:
                    problems.append(f"{name} {problem}")
                elif inner.is_file():
                    upload.append(name)
        else:
            is_image = path.name in images
            most = MOST_IMAGE if is_image else None if path.suffix == ".safetensors" else MOST_TEXT
            problem = _problem(path, allowed=path.name in known or is_image, most=most)
            if problem:
                problems.append(f"{path.name} {problem}")
            else:
                upload.append(path.name)
    return Sorted(upload=upload, left_out=left_out, problems=problems)


def _problem(path: Path, *, allowed: bool, most: int | None, is_inside: bool = False) -> str | None:
    """What is wrong with an entry and what to do, or None."""
    if path.is_symlink():
        return "is a link: copy the folder with its contents (cp -rL)"
    if any(fnmatch(path.name.lower(), pattern) for pattern in _SECRET_FILES):
        return "looks like a secret: move it out of the folder, and do not publish what is in it"
    if path.is_dir():
        return None if is_inside else "is a folder that no module has: move it away"
    if not path.is_file():
        return "is no regular file: remove it"
    size = path.stat().st_size
    if path.suffix in _PICKLES:
        return "may run code when it is loaded (pickle): only safetensors are published, remove it"
    if any(fnmatch(path.name, pattern) for pattern in _RUN_STATE):
        return "is the state of a training run: move it away"
    if path.suffix in _OTHER_WEIGHTS:
        return "holds weights in another format: only safetensors are published, move it away"
    if not allowed and path.suffix == ".safetensors":
        return f"holds weights that nothing here loads ({_megabytes(size)}): move it away"
    if not allowed:
        return f"is no part of a model folder ({_megabytes(size)}): move it away"
    if most is not None and size > most:
        return f"has {_megabytes(size)}, and {_megabytes(most)} are the most for such a file"
    return None


def _megabytes(size: int) -> str:
    return f"{size / 10**6:.1f} MB"


def _shards(folder: Path) -> set[str]:
    index = folder / _INDEX
    if not index.is_file():
        return set()
    weights = read_json(index, dict).get("weight_map")
    if not isinstance(weights, dict):
        raise ValueError(f"{index} has no weight_map: save the model again")
    return {str(name) for name in weights.values()}


def _code(folder: Path) -> set[str]:
    """Files of a model with code of its own."""
    path = folder / "config.json"
    classes = read_json(path, dict).get("auto_map") if path.is_file() else None
    return {f"{str(name).split('.')[0]}.py" for name in classes.values()} if isinstance(classes, dict) else set()


def _module_folders(folder: Path) -> set[str]:
    path = folder / MODULES_NAME
    modules = read_json(path, list) if path.is_file() else []
    return {str(module.get("path", "")) for module in modules if isinstance(module, dict)} - {""}


def _images(folder: Path) -> set[str]:
    """Pictures that the card shows."""
    card = folder / CARD_NAME
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    names = re.findall(r"""(?:\]\(|src=["'])(?:\./)?([^)"'\s/]+)""", text)
    return {name for name in names if name.lower().endswith(_IMAGES)}


def weight_problems(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """What is wrong with the weights: none there, damaged files, an index that does not fit."""
    weights = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if not weights:
        yield "there are no safetensors weights: save the model again (model.save_pretrained)"
    shards = _shards(folder)
    for name in sorted(shards - set(names)):
        yield f"{name}, which {_INDEX} names, is missing: the folder is incomplete"
    if shards and "model.safetensors" in weights and "model.safetensors" not in shards:
        yield f"model.safetensors is there beside the shards of {_INDEX}: keep one of both"
    held: dict[str, set[str]] = {}
    for name in (name for name in names if name.endswith(".safetensors")):
        try:
            with safe_open(folder / name, framework="numpy") as file:
                held[name] = set(file.keys())
        except (SafetensorError, OSError) as error:
            yield f"{name} is damaged ({' '.join(str(error).split())}): copy or save it again"
    if shards:
        for tensor, name in read_json(folder / _INDEX, dict)["weight_map"].items():
            if name in held and tensor not in held[name]:
                yield f"{name} lacks {tensor}, which {_INDEX} says is there: save the model again"
                return


def loader_problem(folder: Path) -> str | None:
    """Whether the code that others run by `trust_remote_code` is ours."""
    path = folder / LOADER_NAME
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace").split() != loader_stub().split():
        return (
            f"{LOADER_NAME} is not the loader that this grace-st writes, and others would run it: save the model again"
        )
    types = [str(module.get("type", "")) for module in read_json(folder / MODULES_NAME, list)]
    if any(type_.startswith(f"{Path(LOADER_NAME).stem}.") for type_ in types) and not path.is_file():
        return f"{LOADER_NAME}, which modules.json names, is missing: save the model again"
    return None


def secret_problems(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Texts in which a token or a private key stands."""
    for name in names:
        if name.endswith((".safetensors", ".model", *_IMAGES)) or Path(name).name in _VOCABULARIES:
            continue
        if _SECRETS.search((folder / name).read_bytes()):
            yield f"{name} holds what looks like a token or a private key: take it out, and revoke it"
