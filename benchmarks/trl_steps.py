"""Steps of TRL's GRPOTrainer, one at a time; started by `train_step.py` with the Python of another environment.

Needs `requirements-trl.txt` and none of this package: the bundled model is an ordinary causal LM. The options are those
that make TRL fast on a CPU (see `arguments_of`). Three rewards:

    trivial  the length of the text: what TRL costs at least
    embed    vectors of the completions by a second forward pass, rewarded where they agree within their group
    grace    the same, and for each query and negative a rollout of its own with its vector, which `generate` and a
             forward pass inside the reward function make: GRACE's reward as a user of TRL would have to write it
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from second_pass import Embedder, Prompt, agreement, contrast
from stepping import Channel, never_ends, peak_bytes
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def arguments_of(spec: Mapping[str, Any]) -> GRPOConfig:
    """TRL's options: one update of all rollouts a step, advantages as in Eq. 18 of the paper, and nothing else."""
    rows = spec["batch"] * spec["group"]
    if rows % spec["trl_parts"]:
        raise ValueError(f"{rows} rollouts cannot be cut into {spec['trl_parts']} equal parts: choose a divisor")
    return GRPOConfig(
        output_dir=str(Path(spec["folder"]) / "run"),
        seed=spec["seed"],
        max_steps=spec["steps"],
        # All rollouts are generated together and trained in one update; here the parts of its backward passes.
        per_device_train_batch_size=rows // spec["trl_parts"],
        gradient_accumulation_steps=spec["trl_parts"],
        num_generations=spec["group"],
        num_iterations=1,
        shuffle_dataset=False,
        max_completion_length=spec["tokens"],
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,  # no KL, and no second model
        loss_type="dapo",  # mean over all tokens
        scale_rewards="none",
        mask_truncated_completions=False,
        disable_dropout=True,
        learning_rate=spec["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim=spec["trl_optimizer"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,  # TRL's default is to compute activations twice
        use_transformers_continuous_batching=spec["trl_continuous_batching"],
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
        log_completions=False,
    )


class Reward:
    """What the trainer calls with the completions of a step, and a check of what it is given.

    Args:
        spec: What is measured.
        work: The prompts of each step.
    """

    __name__ = "reward"

    def __init__(self, spec: Mapping[str, Any], work: Sequence[Mapping[str, Any]]) -> None:
        self.spec = spec
        self.work = work
        self.embedder: Embedder | None = None
        self.settings: Any = None
        self.sampled = 0
        self.seconds = 0.0

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        trainer_state: Any,
        **_: object,
    ) -> list[float]:
        """A reward for each completion."""
        started = time.perf_counter()
        step = self.work[trainer_state.global_step]
        owners = [prompt for prompt in step["positives"] for _ in range(self.spec["group"])]
        if list(prompts) != [prompt["text"] for prompt in owners]:
            raise RuntimeError("TRL trains on other prompts than it was given for this step")
        self.sampled = len(completion_ids)
        result = self._rewards(step, owners, completions, completion_ids)
        self.seconds = time.perf_counter() - started
        return result

    def _rewards(
        self,
        step: Mapping[str, Any],
        owners: Sequence[Prompt],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
    ) -> list[float]:
        self._check(completion_ids)
        if self.spec["reward"] == "trivial":
            return [float(len(text)) for text in completions]
        assert self.embedder is not None
        group = self.spec["group"]
        if self.spec["reward"] == "embed":
            return (10 * agreement(self.embedder.vectors(owners, completion_ids), group)).tolist()
        counts = [len(row) for row in step["negatives"]]
        anchors = [*step["queries"], *(prompt for row in step["negatives"] for prompt in row)]
        rationales = self.embedder.rollouts(anchors, self.settings)
        self._check(rationales)
        self.sampled += len(anchors)
        vectors = self.embedder.vectors([*owners, *anchors], [*completion_ids, *rationales])
        trained, queries, negatives = vectors.split([len(owners), len(step["queries"]), sum(counts)])
        return contrast(trained, queries, negatives, counts, group).tolist()

    def _check(self, completion_ids: Sequence[Sequence[int]]) -> None:
        if any(len(ids) != self.spec["tokens"] for ids in completion_ids):
            raise RuntimeError("a rationale did not fill its budget")


class Pace(TrainerCallback):
    """Stops between two steps until another one is asked for.

    A step is everything from that word to the end of the step: drawing the batch and the trainer's own loop as well.

    Args:
        channel: Where the word comes from.
        reward: Knows what was sampled.
        number: The size of the trainer's steps.

    Attributes:
        asked: The size that the last word named; None where there will be no more steps.
        trainer: The trainer, once it is made.
    """

    def __init__(self, channel: Channel, reward: Reward, number: int) -> None:
        self.channel = channel
        self.reward = reward
        self.number = number
        self.asked: int | None = number
        self.trainer: TimedTrainer | None = None
        self.started = 0.0
        self.started_cpu = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """The first step has been asked for."""
        del args, state, control, options
        self._begin()

    def _begin(self) -> None:
        self.started, self.started_cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Tell what the step cost, and wait."""
        del args, state, options
        seconds = time.perf_counter() - self.started
        cpu_seconds = time.process_time() - self.started_cpu
        assert self.trainer is not None
        self.channel.send(
            {
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "sampled": self.reward.sampled,
                "updated": self.reward.spec["batch"] * self.reward.spec["group"],
                "parts": {
                    "sampling": self.trainer.generated,
                    "reward": self.reward.seconds,
                    "update": seconds - self.trainer.generated - self.reward.seconds,
                },
                "peak_bytes": peak_bytes(),
            }
        )
        self.asked = self.channel.next_size()
        if self.asked != self.number:
            control.should_training_stop = True
        self._begin()


class TimedTrainer(GRPOTrainer):
    """TRL's trainer, which also tells how long it generated."""

    generated = 0.0

    def _generate(self, prompts: list[Any]) -> Any:
        started = time.perf_counter()
        result = super()._generate(prompts)
        self.generated = time.perf_counter() - started
        return result


def load(spec: Mapping[str, Any]) -> Any:
    """The model, as TRL's own loading would have it: float32."""
    return AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32)


def train(spec: Mapping[str, Any], number: int, channel: Channel) -> int | None:
    """Take steps of one size until one of another size is asked for, which is returned, or none."""
    work = json.loads(Path(spec["work"]).read_text(encoding="utf-8"))
    if spec["compact_head"]:
        # Without Triton TRL computes logits for prompt tokens too, for devices that compile anew for each shape.
        trl.trainer.utils._use_triton = lambda device: True
    model = load(spec)
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    texts = [prompt for step in work for prompt in step["positives"]]
    if tokenizer(text=[prompt["text"] for prompt in texts])["input_ids"] != [prompt["ids"] for prompt in texts]:
        raise RuntimeError("the tokenizer of this environment makes other tokens of the prompts")
    reward = Reward(spec, work)
    pace = Pace(channel, reward, number)
    pace.trainer = trainer = TimedTrainer(
        model=model,
        reward_funcs=reward,
        args=arguments_of(spec),
        train_dataset=Dataset.from_dict({"prompt": [prompt["text"] for prompt in texts]}),
        processing_class=tokenizer,
        callbacks=[pace],
    )
    never_ends(model, trainer.eos_token_ids)
    reward.embedder, reward.settings = Embedder(model, spec["trl_embed_rows"]), trainer.generation_config
    trainer.train()
    if pace.asked == number:
        raise RuntimeError(f"another step was asked for than the {spec['steps']} that were planned")
    return pace.asked


def main() -> None:
    """Take steps as told."""
    channel = Channel()
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "trl": trl.__version__}
    parameters = sum(parameter.numel() for parameter in load(spec).parameters())
    channel.send({"parameters": parameters, "versions": versions})
    number = channel.next_size()
    while number is not None:
        number = train({**spec, **spec["sizes"][number]}, number, channel)


if __name__ == "__main__":
    main()
