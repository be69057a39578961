"""Whether the Hugging Face hub can be asked for a model, found out before anything waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from sentence_transformers.util import load_file_path

from grace_st.config import CONFIG_NAME

# A model on the hub that can be used here has one of them.
_FILES = ("config.json", "adapter_config.json")


def check_hub(name: str, hub: Mapping[str, Any]) -> None:
    """Refuse a model that is neither here nor in the cache while the hub cannot be reached.

    The loaders ask for one file after the other and try each six times, so that without a network their error takes
    most of a minute. This asks once, or twice where an answer stays away. What the hub answers, be it that there is no
    such model, is for them to say.

    Args:
        name: A folder, which is not asked for, or a name on the hub.
        hub: Where and how to look: token, revision, cache_dir.

    Raises:
        FileNotFoundError: It is no folder, the cache has no such model, and ``HF_HUB_OFFLINE`` forbids to ask the hub,
            which else has no models of such a name.
        OSError: The same, and the hub cannot be reached.
    """
    if Path(name).is_dir():
        return
    revision = hub.get("revision")
    try:
        for file in _FILES:
            if isinstance(try_to_load_from_cache(name, file, cache_dir=hub.get("cache_dir"), revision=revision), str):
                return
        _ask(hf_hub_url(name, _FILES[0], revision=revision), hub.get("token"))
    except OfflineModeIsEnabled as error:
        raise FileNotFoundError(
            f"{name} is no local folder and not in the cache, and HF_HUB_OFFLINE forbids to ask the hub for it: unset "
            "it, or give a folder"
        ) from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        reason = " ".join(str(error).split())[:200]
        raise OSError(
            f"{name} is no local folder and not in the cache, and the hub cannot be reached to look for it "
            f"({type(error).__name__}: {reason}): check the network and HF_ENDPOINT, or give a folder"
        ) from error
    except HFValidationError as error:
        raise FileNotFoundError(
            f"{name} is no local folder, and cannot be the name of a model on the hub (ORG/NAME): check it"
        ) from error
    except HfHubHTTPError:
        return  # an answer


def find_grace_config(name: str) -> str | None:
    """The path of a model's ``grace_config.json``; None for a causal LM that was never converted.

    Args:
        name: A folder, or a name on the hub; see `grace_st.paths.local_or_hub`.

    Raises:
        OSError: See `check_hub`.
    """
    check_hub(name, {})
    found: str | None = load_file_path(name, CONFIG_NAME, local_files_only=Path(name).is_dir())
    return found


def _ask(url: str, token: bool | str | None) -> None:
    try:
        get_hf_file_metadata(url, token=token)
    except (httpx.TimeoutException, httpx.RemoteProtocolError):  # there is a network
        get_hf_file_metadata(url, token=token)
