"""GenerateThenPool: the sentence-transformers module that writes a rationale and pools in the same pass."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from grace_st import __version__
from grace_st.config import CONFIG_NAME, GraceConfig
from grace_st.engines.base import (
    Engine,
    NonFiniteVectorError,
    OnRollout,
    Progress,
    PromptTokens,
    Rollout,
    Sampling,
)
from grace_st.engines.choice import check_engine
from grace_st.engines.requests import check_context
from grace_st.engines.torch_engine import TorchEngine
from grace_st.engines.vllm.engine import VllmEngine
from grace_st.engines.vllm.loading import vllm_engine
from grace_st.half_precision import Widening
from grace_st.model_files import LOADER_NAME, ST_CONFIG_NAME, loader_stub, no_model_folder
from grace_st.prompt import RepresentationPrompt
from grace_st.store import RationaleStore
from grace_st.store.generation import ACCELERATOR_BATCH, CPU_BATCH, generate_with_store, store_of
from grace_st.truncation import TruncationLog
from grace_st.weights import load_causal_lm

logger = logging.getLogger(__name__)

REQUIREMENTS = {
    "grace-st": {"specifier": ">=0.1", "reason": "the model writes a rationale before it embeds"},
}

# A context variable, so that threads that share a model report to their own.
_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def reporting_progress(progress: Progress) -> Iterator[None]:
    """Have `GenerateThenPool.forward` report finished texts: sentence-transformers' own bar only counts batches."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


class GenerateThenPool(InputModule):
    """A causal LM as the first module of a `SentenceTransformer`.

    Each text becomes a prompt, the model writes a rationale, and the hidden states of text, template tail and
    rationale are pooled while it writes (GRACE, arXiv 2510.04506, Eq. 9 to 11; the terminating EOS is left out).

    Args:
        model: The causal LM; None where the engine holds the weights.
        tokenizer: Its fast tokenizer.
        config: Prompt, limits and pooling.
        engine: Which engine generates: ``"torch"``, or an engine that holds the weights (`load` makes it for "vllm").
        engine_kwargs: Options of the engine, e.g. ``{"slots": 16}``.
        keep_dtype: Compute in the model's dtype also on a CPU, where half precision is otherwise widened to float32.

    Attributes:
        max_seq_length: Longest prompt in tokens; may be set, as sentence-transformers' own modules allow.
        max_new_tokens: Default budget of the rationale in tokens; may be set.
        vocabulary_size: How many token ids have an embedding.

    Raises:
        ValueError: The engine is unknown, or prompt and budget exceed the model's context.
    """

    config_file_name = CONFIG_NAME
    save_in_root = True
    forward_kwargs = {  # noqa: RUF012  (declared like this by the base class)
        "max_new_tokens",
        "do_sample",
        "temperature",
        "top_p",
        "top_k",
        "repetition_penalty",
        "seed",
        "store",
    }

    def __init__(
        self,
        model: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        config: GraceConfig,
        *,
        engine: str | VllmEngine = "torch",
        engine_kwargs: Mapping[str, Any] | None = None,
        keep_dtype: bool = False,
    ) -> None:
        super().__init__()
        self.max_seq_length = config.max_seq_length
        self.max_new_tokens = config.max_new_tokens
        self._config = config
        self._widening = Widening(keep_dtype=keep_dtype)
        self.tokenizer = tokenizer
        self._truncation = TruncationLog()
        self.engine: Engine
        if isinstance(engine, VllmEngine):
            if model is not None:
                raise ValueError("a vLLM engine holds the weights itself: give no model beside it")
            self.engine = engine
            self.vocabulary_size = engine.vocabulary_size
        else:
            self._use_torch(model, engine, engine_kwargs)
        self._check_ids()

    def _use_torch(self, model: PreTrainedModel | None, engine: str, engine_kwargs: Mapping[str, Any] | None) -> None:
        check_engine(engine, engine_kwargs)
        if engine != "torch" or model is None:
            raise ValueError(f"engine={engine!r} reads a model folder: use grace_st.load(folder, engine={engine!r})")
        self.model = model
        torch_engine = TorchEngine(
            model,
            eos_token_ids=self._config.eos_token_ids,
            pad_token_id=self._config.pad_token_id,
            pooling=self._config.pooling,
            pooling_span=self._config.pooling_span,
            **(engine_kwargs or {}),
        )
        self.engine = torch_engine
        check_context(self.max_seq_length, self.max_new_tokens, torch_engine.forward.context_length)
        self.vocabulary_size = torch_engine.forward.vocabulary_size

    def __getattr__(self, name: str) -> Any:
        """Say where the weights are when there is no model."""
        if name == "model" and "model" not in self._modules:
            raise AttributeError("the weights are in vLLM, so there is no transformers model: load with engine='torch'")
        return super().__getattr__(name)

    @property
    def config(self) -> GraceConfig:
        """The configuration with the limits as they are set now."""
        return self._config.replace(max_seq_length=self.max_seq_length, max_new_tokens=self.max_new_tokens)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; setting it makes the prompt anew."""
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.prompt = RepresentationPrompt(tokenizer, self._config.head, self._config.tail, self._config.eos_token_ids)
        self._tokenizer = tokenizer

    def _check_ids(self) -> None:
        """Refuse tokens of template, padding or EOS set that the model has no embedding for."""
        config, prompt, vocabulary_size = self._config, self.prompt, self.vocabulary_size
        named = {"padding": [config.pad_token_id], "EOS set": config.eos_token_ids}
        for kind, ids in {**named, "chat template": [*prompt.head_ids, *prompt.tail_ids]}.items():
            wrong = [token_id for token_id in ids if token_id >= vocabulary_size]
            if wrong:
                token = self.tokenizer.convert_ids_to_tokens(wrong[0]) or "unknown to the tokenizer"
                raise ValueError(
                    f"the {kind} uses token {wrong[0]} ({token}), but the model has embeddings for 0 to "
                    f"{vocabulary_size - 1} only: resize its embeddings (model.resize_token_embeddings), or name "
                    "another token"
                )

    def get_embedding_dimension(self) -> int:
        """``d`` of the vectors."""
        return self.engine.embedding_dimension

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of the checkpoint's weights, also where they are computed with in another on a CPU."""
        if isinstance(self.engine, VllmEngine):
            dtype: torch.dtype = getattr(torch, self.engine.ready.dtype)
            return dtype
        return self._widening.stored_dtype(self.model)

    def __repr__(self) -> str:
        """One line for model cards and ``print(model)``: the causal LM's class and the settings."""
        settings = {
            "architecture": (
                self.engine.ready.architecture if isinstance(self.engine, VllmEngine) else type(self.model).__name__
            ),
            "max_seq_length": self.max_seq_length,
            "max_new_tokens": self.max_new_tokens,
            "pooling": self._config.pooling,
            "pooling_span": self._config.pooling_span,
        }
        return f"{type(self).__name__}({settings})"

    # ---------------------------------------------------------------- encode

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Texts to prompts.

        Args:
            inputs: Texts.
            prompt: An instruction that goes before each text and is not pooled.
            kwargs: Ignored; sentence-transformers passes options of `forward` here as well.

        Returns:
            ``input_ids`` and ``attention_mask`` ``[B, L]``, padded on the right, and ``pool_start`` ``[B]``.

        Raises:
            ValueError: An input is not a string, or the template leaves no room for a text.
        """
        del kwargs
        for text in inputs:
            # Without its place: sentence-transformers has sorted the inputs, so it would mislead.
            if not isinstance(text, str):
                raise ValueError(f"every input must be a string, got {type(text).__name__}: {text!r:.80}")
        return self.features_of(self.prompts_of(inputs, prompt))

    def features_of(self, prompts: Sequence[PromptTokens]) -> dict[str, Tensor]:
        """What `forward` takes, see `preprocess`, from ``B`` prompts."""
        width = max(len(tokens.ids) for tokens in prompts)
        input_ids = torch.full((len(prompts), width), self.config.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        for row, tokens in enumerate(prompts):
            input_ids[row, : len(tokens.ids)] = torch.tensor(tokens.ids)
            attention_mask[row, : len(tokens.ids)] = 1
        pool_start = torch.tensor([tokens.pool_start for tokens in prompts])
        return {"input_ids": input_ids, "attention_mask": attention_mask, "pool_start": pool_start}

    def prompts_of(self, texts: Sequence[Any], instruction: str | None = None) -> list[PromptTokens]:
        """The prompts of some texts, see `RepresentationPrompt.tokenize`. Texts that are cut are logged or counted.

        Raises:
            ValueError: A text is not a string, or the template leaves no room for a text.
        """
        limit = self.config.max_seq_length
        try:
            prompts = self.prompt.tokenize(texts, max_seq_length=limit, instruction=instruction)
        except TypeError as error:
            # sentence-transformers takes a TypeError for an old signature, and calls again without the prompt.
            raise ValueError(str(error)) from None
        self._truncation.report(len(prompts), sum(tokens.truncated for tokens in prompts), limit)
        return prompts

    def prompts_of_ids(self, texts: Sequence[Sequence[int]], instruction: str | None = None) -> list[PromptTokens]:
        """The prompts of texts that are given as the ids of their tokens, without special tokens.

        Raises:
            ValueError: An id has no embedding or is a control token, or the template leaves no room for a text.
        """
        for index, ids in enumerate(texts):
            unknown = next((token_id for token_id in ids if not 0 <= token_id < self.vocabulary_size), None)
            if unknown is not None:
                raise ValueError(
                    f"text {index} has the token id {unknown}, but the model has embeddings for 0 to "
                    f"{self.vocabulary_size - 1} only: ids must be made by the model's own tokenizer"
                )
            if not self.prompt.structural_ids.isdisjoint(ids):
                control = next(token_id for token_id in ids if token_id in self.prompt.structural_ids)
                raise ValueError(
                    f"text {index} has the control token {self.tokenizer.convert_ids_to_tokens(control)!r} (id "
                    f"{control}), which no text can hold: tokenise with add_special_tokens=False"
                )
        limit = self.config.max_seq_length
        prompts = self.prompt.frame(texts, max_seq_length=limit, instruction=instruction)
        self._truncation.report(len(prompts), sum(tokens.truncated for tokens in prompts), limit)
        return prompts

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Generate and pool.

        Args:
            features: What `preprocess` returned.
            options: Those of `forward_kwargs`, see `grace_st.engines.base.Sampling`; and ``store``, see `rollouts`.

        Returns:
            The features with ``sentence_embedding`` ``[B, d]`` float32, ``rationale_ids`` ``[B, T]`` padded on the
            right, ``rationale_lengths`` ``[B]`` and ``rationale_finished`` ``[B]`` bool (EOS was produced).

        Raises:
            RuntimeError: Called to train: gradients do not flow through generation.
            ValueError: An option is unknown or out of range.
            NonFiniteVectorError: A vector is not finite; the text is named.
        """
        if self.training and torch.is_grad_enabled():
            raise RuntimeError(
                "gradients do not flow through the generation of a rationale, so a loss on these embeddings cannot "
                "train the model: use `grace-st train` (GRPO with contrastive rewards). To encode, call model.eval()"
            )
        device = features["input_ids"].device
        lengths = features["attention_mask"].sum(dim=1).tolist()
        rows = zip(features["input_ids"].tolist(), lengths, features["pool_start"].tolist(), strict=True)
        prompts = [PromptTokens(tuple(ids[:length]), start) for ids, length, start in rows]
        store = options.pop("store", None)
        rollouts = self.rollouts(prompts, self.sampling(**options), progress=_progress.get(), store=store)
        width = max((len(rollout.ids) for rollout in rollouts), default=0)
        rationale_ids = torch.full((len(rollouts), width), self.config.pad_token_id, dtype=torch.long)
        for row, rollout in enumerate(rollouts):
            rationale_ids[row, : len(rollout.ids)] = torch.tensor(rollout.ids, dtype=torch.long)
        features["sentence_embedding"] = torch.stack([rollout.vector for rollout in rollouts]).to(device)
        features["rationale_ids"] = rationale_ids.to(device)
        features["rationale_lengths"] = torch.tensor([len(rollout.ids) for rollout in rollouts], device=device)
        features["rationale_finished"] = torch.tensor([rollout.finished for rollout in rollouts], device=device)
        return features

    def sampling(self, **options: Any) -> Sampling:
        """Sampling options for one call, the budget being the module's unless given.

        Raises:
            ValueError: An option is unknown or out of range.
        """
        known = self.forward_kwargs - {"store"}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if options.get("max_new_tokens") is None:
            options["max_new_tokens"] = self.max_new_tokens
        return Sampling(**options)

    def rollouts(
        self,
        prompts: Sequence[PromptTokens],
        sampling: Sampling | None = None,
        *,
        rationales: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
        store: RationaleStore | str | os.PathLike[str] | None = None,
        on_rollout: OnRollout | None = None,
    ) -> list[Rollout]:
        """Rationales and vectors of prompts: generated as ``sampling`` says, or pooled for given rationales.

        Args:
            prompts: The prompts.
            sampling: How to generate.
            rationales: Pool these instead.
            progress: Called with the number of prompts that have just been finished.
            store: What it holds is not generated again, and what is generated is kept in it; a path, or a store.
            on_rollout: Called with each rollout as soon as it has ended, and its place, see `OnRollout`.

        Raises:
            NonFiniteVectorError: A vector is not finite; the text is named.
            ValueError: See `grace_st.engines.base.Engine`; or a store is given with rationales, or ``on_rollout`` with
                either of them.
        """
        self._widen_on_cpu()
        if on_rollout is not None and (rationales is not None or store is not None):
            raise ValueError("on_rollout tells of what is generated: leave out rationales and store")
        if rationales is not None:
            if store is not None:
                raise ValueError("given rationales are not generated, so there is nothing for a store: leave it out")
            with self._naming(prompts):
                return self.engine.embed(prompts, rationales, progress=progress)
        chosen = sampling or self.sampling()

        def generate(
            some: Sequence[PromptTokens], progress: Progress | None, on_rollout: OnRollout | None
        ) -> list[Rollout]:
            with self._naming(some):
                return self.engine.generate(some, chosen, progress=progress, on_rollout=on_rollout)

        if store is None:
            return generate(prompts, progress, on_rollout)
        return generate_with_store(
            prompts,
            chosen,
            generate=generate,
            store=store_of(store),
            settings=self.fingerprint(),
            batch_size=self._store_batch(),
            progress=progress,
        )

    def token_states(self, prompt: PromptTokens, rationale: Sequence[int]) -> Tensor:
        """The states that a vector is pooled from, see `TorchEngine.token_states`.

        Raises:
            ValueError: The engine gives none, or the rationale does not fit.
            NonFiniteVectorError: A state is not finite; the text is named.
        """
        if not isinstance(self.engine, TorchEngine):
            raise ValueError(
                f"{type(self.engine).__name__} gives no states of single tokens: load the model with engine='torch'"
            )
        self._widen_on_cpu()
        with self._naming([prompt]):
            return self.engine.token_states(prompt, rationale)

    def _store_batch(self) -> int | None:
        if isinstance(self.engine, VllmEngine):
            return None  # it is fast only with a queue, and tells of each rollout when it is finished
        return CPU_BATCH if self.model.device.type == "cpu" else ACCELERATOR_BATCH

    def fingerprint(self) -> dict[str, Any]:
        """All that a rollout depends on, but for its prompt and the sampling: the space of a store.

        The device and the versions of what computes are among it: the last digits of a vector depend on them, and in
        half precision a token may.

        Raises:
            ValueError: Weights are not in memory.
        """
        self._widen_on_cpu()
        return {
            "grace-st": __version__,
            **self.engine.fingerprint(),
            "pooling": self._config.pooling,
            "pooling_span": self._config.pooling_span,
            "eos_token_ids": list(self._config.eos_token_ids),
        }

    @contextmanager
    def _naming(self, prompts: Sequence[PromptTokens]) -> Iterator[None]:
        """Put the text into the error about a vector that is not finite."""
        try:
            yield
        except NonFiniteVectorError as error:
            tokens = prompts[error.index]
            text = self.prompt.decode(tokens.ids[tokens.pool_start : len(tokens.ids) - len(self.prompt.tail_ids)])
            raise NonFiniteVectorError(error.index, error.what, text) from None

    def _widen_on_cpu(self) -> None:
        if not isinstance(self.engine, VllmEngine):
            self._widening.apply(self.model)

    # ---------------------------------------------------------------- load and save

    @classmethod
    def load(  # type: ignore[override]
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> GenerateThenPool:
        """Load from a model folder or the hub, as sentence-transformers asks its modules to.

        Args:
            model_name_or_path: Folder or hub name.
            subfolder: Folder inside it.
            token: Hub token.
            cache_folder: Where downloads are kept.
            revision: Hub revision.
            local_files_only: Never ask the hub.
            trust_remote_code: For checkpoints whose architecture or tokenizer has code of its own.
            model_kwargs: Passed to ``AutoModelForCausalLM.from_pretrained`` (dtype, device_map,
                attn_implementation, quantization_config, ...), but for ``engine`` and ``engine_kwargs``.
            processor_kwargs: Passed to ``AutoTokenizer.from_pretrained``.
            config_kwargs: Fields of `GraceConfig` that replace the folder's, e.g. ``{"pooling_span": "rationale"}``.
            backend: Must be ``"torch"``.
            kwargs: Ignored; for later versions of sentence-transformers.

        Raises:
            ValueError: The backend is not torch, or the configuration is refused.
            OSError: Files are missing; a checkpoint without safetensors is one such case.
        """
        del kwargs
        if backend != "torch":
            raise ValueError(f"backend={backend!r} cannot generate rationales: only backend='torch' can")
        model_kwargs = dict(model_kwargs or {})
        paths = {}
        for filename in (CONFIG_NAME, "tokenizer.json"):
            paths[filename] = cls.load_file_path(
                model_name_or_path,
                filename=filename,
                subfolder=subfolder,
                token=token,
                cache_folder=cache_folder,
                revision=revision,
                local_files_only=local_files_only,
            )
            if paths[filename] is None:
                raise no_model_folder(model_name_or_path, filename)
        config = GraceConfig.from_file(str(paths[CONFIG_NAME])).replace(**(config_kwargs or {}))
        engine = model_kwargs.pop("engine", "torch")
        engine_kwargs = model_kwargs.pop("engine_kwargs", None)
        hub = {
            "subfolder": subfolder,
            "token": token,
            "cache_dir": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
            "trust_remote_code": trust_remote_code,
        }
        check_engine(engine, engine_kwargs)
        tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, **hub, **(processor_kwargs or {}))
        if engine == "vllm":
            started = vllm_engine(model_name_or_path, config, engine_kwargs, model_kwargs, hub)
            module = cls(None, tokenizer, config, engine=started)
            started.start()
            return module
        model = load_causal_lm(model_name_or_path, model_kwargs, hub)
        dtypes = (model_kwargs.get("dtype"), model_kwargs.get("torch_dtype"))
        is_chosen = any(dtype not in (None, "auto") for dtype in dtypes)
        module = cls(model, tokenizer, config, engine=engine, engine_kwargs=engine_kwargs, keep_dtype=is_chosen)
        if not torch.accelerator.is_available():
            module._widen_on_cpu()
        return module

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Save weights (safetensors), tokenizer, configuration and the loader stub.

        Weights that were widened from half precision, and have not changed in a way that it cannot hold, are
        saved in the checkpoint's dtype again.

        Raises:
            ValueError: ``safe_serialization=False``: pickled weights are neither written nor read.
        """
        del args, kwargs
        if isinstance(self.engine, VllmEngine):
            raise ValueError(
                "the weights are in vLLM, which does not save them: copy the model folder, or load with engine='torch'"
            )
        if not safe_serialization:
            raise ValueError("GRACE models are saved as safetensors only: leave safe_serialization=True")
        folder = Path(output_path)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_model(folder)
        self.tokenizer.save_pretrained(folder)
        self.config.save(folder)
        (folder / LOADER_NAME).write_text(loader_stub(), encoding="utf-8")
        # sentence-transformers writes its own config before the modules save, and leaves requirements out.
        st_config_path = folder / ST_CONFIG_NAME
        if st_config_path.exists():
            st_config = json.loads(st_config_path.read_text(encoding="utf-8"))
            st_config["requirements"] = {**st_config.get("requirements", {}), **REQUIREMENTS}
            st_config_path.write_text(json.dumps(st_config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _save_model(self, folder: Path) -> None:
        generation_config = self.model.generation_config
        # Only what ends and pads a rationale: sampling is chosen per call, never inherited from a checkpoint.
        self.model.generation_config = GenerationConfig(
            bos_token_id=self.model.config.get_text_config(decoder=True).to_dict().get("bos_token_id"),
            eos_token_id=list(self.config.eos_token_ids),
            pad_token_id=self.config.pad_token_id,
        )
        try:
            with self._widening.undone(self.model):
                self.model.save_pretrained(folder)
        finally:
            self.model.generation_config = generation_config
