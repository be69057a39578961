"""GraceModel and load(): a SentenceTransformer with rationales within reach."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import load_file_path
from tqdm.auto import tqdm

from grace_st.card import GraceModelCardData
from grace_st.config import CONFIG_NAME
from grace_st.encoding import Encoding, check_texts, encode_with_rationales, grace_module
from grace_st.engines.base import Progress
from grace_st.engines.choice import check_engine
from grace_st.explain import DocumentId, Explanation, RankingExplanation, explain_pair, explain_ranking
from grace_st.hub import check_hub
from grace_st.model_files import LOADER_TYPE, MODULES_NAME, no_model_folder
from grace_st.module import GenerateThenPool, reporting_progress
from grace_st.paths import local_or_hub
from grace_st.store import RationaleStore
from grace_st.truncation import one_truncation_warning

_OWN_CLASSES = {LOADER_TYPE: GenerateThenPool, "grace_st.module.GenerateThenPool": GenerateThenPool}


class GraceModel(SentenceTransformer):
    """A `SentenceTransformer` that writes a rationale before it embeds. Made by `load`.

    On the same folder it gives the vectors of the stock class. It differs in this:

    - `encode_with_rationales`, `explain` and `explain_ranking` are methods.
    - ``batch_size`` defaults to what suits the engine, and the progress bar counts texts.
    - Inputs are checked before work starts, and one warning counts all texts that were too long.
    - ``encode([])`` has shape ``[0, d]``.
    - Ctrl-C ends a program whose multi-process pool has work left.
    - A model card that has to be written anew says how the model is loaded.
    """

    model_card_data_class = GraceModelCardData

    def encode_with_rationales(
        self,
        texts: str | Sequence[str],
        *,
        rationales: Sequence[str | Sequence[int]] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        show_progress_bar: bool = False,
        progress: Progress | None = None,
        store: RationaleStore | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> list[Encoding]:
        """Rationales and vectors of texts, one pass over the model: `grace_st.encode_with_rationales` of this model.

        Returns:
            One `Encoding` for each text, in their order; ``embedding`` is float32 ``[d]``.

        Raises:
            ValueError: An option, a text, a prompt name or the number of rationales is wrong.
        """
        return encode_with_rationales(
            self,
            texts,
            rationales=rationales,
            prompt=prompt,
            prompt_name=prompt_name,
            show_progress_bar=show_progress_bar,
            progress=progress,
            store=store,
            **options,
        )

    def explain(
        self,
        text_a: str,
        text_b: str,
        *,
        rationales: tuple[str | Sequence[int], str | Sequence[int]] | None = None,
        prompt: str | tuple[str | None, str | None] | None = None,
        prompt_name: str | tuple[str | None, str | None] | None = None,
        store: RationaleStore | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Explanation:
        """Why two texts are as close as they are, see `grace_st.explain.explain_pair`."""
        return explain_pair(
            self,
            text_a,
            text_b,
            rationales=rationales,
            prompt=prompt,
            prompt_name=prompt_name,
            store=store,
            **options,
        )

    def explain_ranking(
        self,
        query: str,
        documents: Sequence[str],
        *,
        ids: Sequence[DocumentId] | None = None,
        top_k: int = 5,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        store: RationaleStore | str | os.PathLike[str] | None = None,
        show_progress_bar: bool = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> RankingExplanation:
        """Why documents stand in this order for a query, see `grace_st.explain.explain_ranking`."""
        return explain_ranking(
            self,
            query,
            documents,
            ids=ids,
            top_k=top_k,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            store=store,
            show_progress_bar=show_progress_bar,
            progress=progress,
            **options,
        )

    def start_multi_process_pool(
        self, target_devices: list[str] | None = None
    ) -> dict[Literal["input", "output", "processes"], Any]:
        """As sentence-transformers', but a program that ends does not wait until all work has been taken.

        When the workers are gone nobody takes it, and the program would hang at its end.
        """
        pool = super().start_multi_process_pool(target_devices)
        pool["input"].cancel_join_thread()
        return pool

    def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As `SentenceTransformer.encode`, with the per-call options of `GenerateThenPool.forward_kwargs`.

        Returns:
            Float32 ``[n, d]``, or ``[d]`` for a single string; ``[0, d]`` for no texts. What else there is to ask for
            (``convert_to_tensor``, ``precision``, ``output_value=None``) is sentence-transformers'.

        Raises:
            ValueError: A text is no string, or an option is refused.
        """
        if kwargs.get("output_value", "sentence_embedding") == "token_embeddings":
            raise ValueError("there are no token embeddings to return: states are pooled as they are made")
        # sentence-transformers would get to a wrong one last. An array or a column is made a list first: what is wrong
        # in it is refused by the module.
        if isinstance(inputs, (list, tuple)):
            check_texts(inputs)
        kwargs = self._with_batch_size(args, kwargs)
        with one_truncation_warning(), _bar_of_texts(inputs, kwargs):
            embeddings = super().encode(inputs, *args, **kwargs)
        if isinstance(embeddings, (np.ndarray, torch.Tensor)) and embeddings.shape == (0,):
            return embeddings.reshape(0, self.get_embedding_dimension() or 0)
        return embeddings

    def encode_query(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As `SentenceTransformer.encode_query`: `encode` with the prompt named "query", if the model has one.

        Returns:
            As `encode`: float32 ``[n, d]``, or ``[d]`` for a single string.

        Raises:
            ValueError: As `encode`.
        """
        return super().encode_query(inputs, *args, **self._with_batch_size(args, kwargs))

    def encode_document(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As `SentenceTransformer.encode_document`: `encode` with the prompt named "document", if the model has one.

        Returns:
            As `encode`: float32 ``[n, d]``, or ``[d]`` for a single string.

        Raises:
            ValueError: As `encode`.
        """
        return super().encode_document(inputs, *args, **self._with_batch_size(args, kwargs))

    def _with_batch_size(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments with our batch size, unless the caller gives one (third after prompt_name, prompt).

        The engine refills its slots from what it is handed, so many texts and few slots is fast.
        """
        return kwargs if len(args) >= 3 else {"batch_size": grace_module(self).engine.window, **kwargs}

    # A card, and the text of a pull request on the hub, load the model with the stock class, as anyone can.

    def _update_default_model_id(self, model_card: str) -> str:
        name = self.model_card_data.model_id
        placeholder = f'SentenceTransformer("{self._model_card_model_id_placeholder}"'
        return model_card.replace(placeholder, f'SentenceTransformer("{name}"') if name else model_card

    def _push_to_hub_usage_tip(self, repo_id: str) -> str:
        return (
            "## Testing this pull request\nYou can test it before merging, with the number of your pull request:\n"
            "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            "pr_number = 2\n"
            f'model = SentenceTransformer("{repo_id}", revision=f"refs/pr/{{pr_number}}", trust_remote_code=True)\n'
            "```\nIt needs the package grace-st: `pip install grace-st`.\n"
        )


@contextmanager
def _bar_of_texts(inputs: Any, kwargs: dict[str, Any]) -> Iterator[None]:
    """Show finished texts where a progress bar is asked for; one of batches would stand still in our large ones.

    Processes of a pool report nothing to this one, so there the bar stays sentence-transformers' own.
    """
    in_processes = kwargs.get("pool") is not None or isinstance(kwargs.get("device"), list)
    if not kwargs.get("show_progress_bar") or in_processes:
        yield
        return
    kwargs["show_progress_bar"] = False
    total = 1 if isinstance(inputs, str) else len(inputs) if isinstance(inputs, Sized) else None
    with tqdm(total=total, desc="Texts", unit="text") as bar, reporting_progress(bar.update):
        yield


def load(
    folder: str | os.PathLike[str],
    *,
    engine: str = "torch",
    engine_kwargs: Mapping[str, Any] | None = None,
    device: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_folder: str | None = None,
    trust_remote_code: bool = False,
    prompts: dict[str, str] | None = None,
    default_prompt_name: str | None = None,
    truncate_dim: int | None = None,
    **config: Any,
) -> GraceModel:
    """Load a GRACE model folder.

    The code that runs is this package's, so ``trust_remote_code`` is only needed for checkpoints that bring code
    of their own. A local folder is loaded without asking the hub anything.

    Args:
        folder: Folder made by `grace_st.convert` or a training run, or a hub name.
        engine: ``"torch"``, or ``"vllm"``, which is faster on a GPU and runs in a process of its own.
        engine_kwargs: Options of the engine, e.g. ``{"slots": 16}``; those of vLLM are in
            `grace_st.engines.vllm.options.VllmOptions`.
        device: Where to run; None takes the best device there is. vLLM takes the one that it was built for.
        model_kwargs: Passed to ``AutoModelForCausalLM.from_pretrained``: dtype, device_map,
            attn_implementation, quantization_config, ... With vLLM dtype alone.
        revision: Hub revision.
        token: Hub token.
        cache_folder: Where downloads are kept.
        trust_remote_code: For checkpoints whose architecture or tokenizer has code of its own.
        prompts: Instructions by name, as for `SentenceTransformer`.
        default_prompt_name: The instruction used unless a call names another.
        truncate_dim: Cut vectors to this many dimensions.
        config: Fields of `grace_st.GraceConfig` that replace the folder's, e.g. ``pooling_span="rationale"``.

    Raises:
        FileNotFoundError: The folder does not exist, or is no GRACE model folder.
        OSError: It is no local folder, and the hub cannot be reached.
        ValueError: The configuration or an option is refused, or vLLM is missing or cannot be started.
    """
    check_engine(engine, engine_kwargs)
    name = local_or_hub(folder)
    is_local = Path(name).is_dir()
    check_hub(name, {"revision": revision, "token": token, "cache_dir": cache_folder})
    for required in (CONFIG_NAME, MODULES_NAME):
        found = load_file_path(
            name, required, token=token, cache_folder=cache_folder, revision=revision, local_files_only=is_local
        )
        if found is None:
            raise no_model_folder(name, required)
    return GraceModel._load_with_module_classes(
        name,
        _OWN_CLASSES,
        device=device,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        truncate_dim=truncate_dim,
        cache_folder=cache_folder,
        revision=revision,
        token=token,
        trust_remote_code=trust_remote_code,
        local_files_only=is_local,
        model_kwargs={**(model_kwargs or {}), "engine": engine, "engine_kwargs": engine_kwargs},
        config_kwargs=dict(config),
    )
