"""The rollouts of one instance, in verl's agent-loop processes.

An instance is one prompt to verl, and all of its rollouts (trained ones and anchors) are one result: it is there whole
or not at all. Knows token ids only; prompts are made by the driver, with the prompt of ``encode``.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any
from uuid import uuid4

import numpy as np
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput


class RolloutLoop(AgentLoopBase):
    """One instance: every sample of every one of its prompts.

    The base class' constructor is not called: it makes a chat-template parser that not every tokenizer suits, and
    nothing here parses.
    """

    def __init__(self, trainer_config: Any, server_manager: Any, **kwargs: Any) -> None:
        self.response_length = int(trainer_config.config.actor_rollout_ref.rollout.response_length)
        self.server_manager = server_manager

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Generate.

        Args:
            sampling_params: verl's, with the temperature.
            kwargs: ``job``: what `grace_train.verl_engine.jobs.Job` packs.

        Returns:
            One output for each sample, in the job's order. What went wrong is in the outputs' ``extra_fields``,
            since verl only logs exceptions, in another process.
        """
        job = kwargs["job"]
        try:
            tasks = [
                self._sample(np.frombuffer(prompt, dtype=np.int32).tolist(), seed, sampling_params, job)
                for prompt, seeds in job["prompts"]
                for seed in seeds
            ]
            # All of them, so that none is still being written when the weights change.
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            failed = next((answer for answer in answers if isinstance(answer, BaseException)), None)
            if failed is not None:
                raise failed
            return list(answers)
        except Exception as error:
            # An error that came through Ray has the other process' traceback in it; the last line is the cause.
            cause = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
            return [_output([0], [0], [0.0], cause)]

    async def _sample(
        self, prompt: list[int], seed: int | None, sampling_params: dict[str, Any], job: dict[str, Any]
    ) -> AgentLoopOutput:
        params = {**sampling_params, "max_tokens": self.response_length, "stop_token_ids": job["eos"], "logprobs": True}
        if seed is None:
            params |= {"temperature": 0.0, "top_p": 1.0, "top_k": -1}
        elif seed >= 0:
            params["seed"] = seed
        answer = await self.server_manager.generate(request_id=uuid4().hex, prompt_ids=prompt, sampling_params=params)
        ids = list(answer.token_ids)[: self.response_length]
        if not ids or answer.stop_reason in ("aborted", "abort"):
            raise RuntimeError(f"the engine gave {len(ids)} tokens (stop reason {answer.stop_reason!r})")
        return _output(prompt[-1:], ids, [float(value) for value in (answer.log_probs or [])[: len(ids)]], "")


def _output(prompt: list[int], ids: list[int], logprobs: list[float], cause: str) -> AgentLoopOutput:
    # The prompt is known to the driver; verl wants at least one token of it.
    return AgentLoopOutput(
        prompt_ids=prompt,
        response_ids=ids,
        response_mask=[1] * len(ids),
        response_logprobs=logprobs or [0.0] * len(ids),
        reward_score=0.0,  # verl would ask its reward manager, which sees one rollout and never the batch
        num_turns=2,
        metrics={"num_preempted": -1},
        multi_modal_data={},
        mm_processor_kwargs={},
        extra_fields={"cause": cause, "turn_scores": [], "tool_rewards": [], "reward_extra_info": {}},
    )
