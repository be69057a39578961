"""The policy as the trainer sees it: prompts here, rollouts and vectors on the cluster.

The weights live in the workers. What stays in this process is the tokenizer, the prompt and the model folder's
configuration; the start model's weights are read once to write them for verl, and once more at the end.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from grace_st.config import GraceConfig
from grace_st.engines.base import NonFiniteVectorError, PromptTokens, Rollout, Sampling
from grace_st.prompt import RepresentationPrompt
from grace_st.truncation import TruncationLog
from grace_train.config import TrainConfig
from grace_train.local.loading import load_policy
from grace_train.sections import LoraConfig
from grace_train.verl_engine.jobs import ClusterError, Job, Written
from grace_train.verl_engine.rows import embed_rows

if TYPE_CHECKING:
    from grace_train.verl_engine.cluster import Cluster

START = "start"
_READY = "grace_start.json"


class StartModel:
    """The start model as plain transformers files, which verl and vLLM read, and what of it the driver keeps.

    Args:
        config: The run.
        folder: Where the files go; files of an earlier start of the same run are used again.

    Attributes:
        path: The folder.
        config: The model folder's configuration.
        prompt: From texts to token ids.
        fingerprint: Of the weights.
        dtype: The start model's own.
    """

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        plain = replace(config, lora=LoraConfig(), compute=replace(config.compute, device="cpu", precision="fp32"))
        policy = load_policy(plain, keep_reference=False)
        module = policy.module
        self.path = folder
        self.config: GraceConfig = module.config
        self.prompt: RepresentationPrompt = module.prompt
        self.dtype: torch.dtype = policy.start_dtype
        self.fingerprint = policy.fingerprint()
        ready = folder / _READY
        if not ready.is_file() or json.loads(ready.read_text(encoding="utf-8")) != self.fingerprint:
            shutil.rmtree(folder, ignore_errors=True)  # another model's, perhaps in more files
            _no_dropout(module.model.config)
            module.model.to(dtype=self.dtype).save_pretrained(folder)  # type: ignore[call-arg]
            module.tokenizer.save_pretrained(folder)
            ready.write_text(json.dumps(self.fingerprint), encoding="utf-8")
        del policy, module
        gc.collect()


def _no_dropout(config: Any) -> None:
    """Verl trains in training mode, and log-probabilities must be those of the policy that generated."""
    for name, value in vars(config).items():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)


class ClusterModule:
    """Stands where the trainer expects the encoder's module: prompts, greedy rollouts, decoding.

    Args:
        start: The start model.
        cluster: The running cluster.
        max_tokens: Of one pass over prompts and rationales.
    """

    def __init__(self, start: StartModel, cluster: Cluster, max_tokens: int) -> None:
        self.config = start.config
        self.prompt = start.prompt
        self.cluster = cluster
        self.max_new_tokens = start.config.max_new_tokens
        self._max_tokens = max_tokens
        self._truncation = TruncationLog()
        self.traffic = {"bytes": 0, "states": 0}
        self.seconds = {"embed": 0.0}

    def prompts_of(self, texts: Sequence[str], instruction: str | None = None) -> list[PromptTokens]:
        """The prompts of some texts, exactly as ``encode`` makes them."""
        limit = self.config.max_seq_length
        prompts = self.prompt.tokenize(texts, max_seq_length=limit, instruction=instruction)
        self._truncation.report(len(prompts), sum(tokens.truncated for tokens in prompts), limit)
        return prompts

    def rollouts(
        self,
        prompts: Sequence[PromptTokens],
        sampling: Sampling,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[Rollout]:
        """Greedy rollouts, for evaluations and samples.

        Raises:
            ClusterError: One could not be made.
            ValueError: Sampling was asked for: `grace_train.verl_engine.rollouts` does that, a batch at a time.
        """
        if sampling.do_sample:
            raise ValueError("only greedy rollouts are made here")
        found = self.cluster.generate(
            [Job(((tokens.ids, (None,)),)) for tokens in prompts], self.config.eos_token_ids, progress
        )
        written = []
        for item in found:
            if isinstance(item, str):
                raise ClusterError(f"a rationale could not be generated: {self.cluster.explained(item)}")
            written.append(item[0])
        return self.pooled(prompts, written)

    def pooled(self, prompts: Sequence[PromptTokens], written: Sequence[Written]) -> list[Rollout]:
        """Rollouts with their vectors.

        Args:
            prompts: ``n`` prompts.
            written: What was written about each.

        Raises:
            NonFiniteVectorError: A vector holds NaN or infinity.
        """
        eos = frozenset(self.config.eos_token_ids)
        stops = [item.ids[-1] if item.ids and item.ids[-1] in eos else None for item in written]
        rationales = [item.ids if stop is None else item.ids[:-1] for item, stop in zip(written, stops, strict=True)]
        vectors = self.vectors(prompts, rationales)
        made = []
        for index, (item, stop, ids) in enumerate(zip(written, stops, rationales, strict=True)):
            if not np.isfinite(vectors[index]).all():
                text = self.prompt.decode(prompts[index].ids[prompts[index].pool_start :])
                raise NonFiniteVectorError(index, "hidden states", text)
            made.append(Rollout(ids, stop, torch.from_numpy(vectors[index].copy()), item.logprobs))
        return made

    def vectors(self, prompts: Sequence[PromptTokens], rationales: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """``[n, d]`` vectors of prompts with their rationales, by the weights that are trained."""
        sequences = [(*tokens.ids, *ids) for tokens, ids in zip(prompts, rationales, strict=True)]
        starts = [self._pooled_from(tokens) for tokens in prompts]
        rows = embed_rows(sequences, starts, self.cluster.world_size)
        self.cluster.sleep()
        started = time.perf_counter()
        answers = self.cluster.call("embed", self.config.pooling, self._max_tokens, each=rows, what="vectors")
        self.seconds["embed"] += time.perf_counter() - started
        dimension = max(part.shape[1] for _, part in answers)
        vectors = np.empty((len(sequences), dimension), dtype=np.float32)
        for places, part in answers:
            vectors[places] = part
        self.traffic["bytes"] += vectors.nbytes
        self.traffic["states"] += 4 * dimension * sum(map(len, sequences))
        return vectors

    def _pooled_from(self, prompt: PromptTokens) -> int:
        last = len(prompt.ids) - 1
        return last if self.config.pooling_span == "rationale" else min(prompt.pool_start, last)


class ClusterPolicy:
    """Stands where the trainer expects a `grace_train.local.policy.Policy`.

    Args:
        module: Prompts, rollouts and vectors.
        config: The run.
        start: The start model.
    """

    def __init__(self, module: ClusterModule, config: TrainConfig, start: StartModel) -> None:
        self.module = module
        self.start_dtype = start.dtype
        self._config = config
        self._weights = start.path.with_name("weights.pt")

    def autocast(self) -> AbstractContextManager[Any]:
        """The workers see to precision themselves."""
        return nullcontext()

    def save(self, folder: Path, *, name: str, dtype: torch.dtype) -> None:
        """Write a model folder, adapters merged: the local engine's own writing, with the workers' weights."""
        self.module.cluster.call("save_weights", str(self._weights), 0, what="the weights to be written")
        try:
            saved = torch.load(self._weights, weights_only=True, map_location="cpu", mmap=True)
            compute = replace(self._config.compute, device="cpu", precision="fp32")
            policy = load_policy(replace(self._config, compute=compute), keep_reference=False)
            trained = policy.trainable()  # the state of the workers has a tied head by both of its names
            policy.load_state_dict({name: value for name, value in saved["weights"].items() if name in trained})
            policy.save(folder, name=name, dtype=dtype)
        finally:
            self._weights.unlink(missing_ok=True)
