"""The local trainer: GRPO with contrastive rewards in one process.

What one step does, in order (`Trainer._step`): draw a batch; generate, the vectors come with the rationales; reward;
compare within groups; update. There is no critic, no second encoder, no second forward for the rewards. The rest of
this file decides when to evaluate, save and stop.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grace_st.engines.base import NonFiniteVectorError, Sampling
from grace_train.config import TrainConfig
from grace_train.data.batches import BatchSampler
from grace_train.data.loading import load_training_data
from grace_train.data.retrieval_data import RetrievalData, load_retrieval
from grace_train.extras import TRAINING, require_packages
from grace_train.local.checkpoints import RunState
from grace_train.local.evaluation import METRIC, Evaluation, evaluate
from grace_train.local.interruption import Interrupted, Interruption
from grace_train.local.loading import load_policy
from grace_train.local.policy import Policy
from grace_train.local.progress import Progress
from grace_train.local.recipe import recipe_of, shareable
from grace_train.local.resume import check_same_run
from grace_train.local.rollouts import RolloutMaker
from grace_train.local.run_folder import SUMMARY, RunFolder
from grace_train.local.scoring import Side, describe, rollout_count, score
from grace_train.local.update import Learner
from grace_train.local.views import Views
from grace_train.options import ConfigError
from grace_train.report.curves import draw_curves
from grace_train.report.health import HealthMonitor, TrainingStopped
from grace_train.report.log import METRICS_NAME

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_NOTES = 30
"""Between two lines about a long evaluation."""

SAMPLE_ROWS = 64
"""Rows whose texts are candidates for the rationale samples."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        summary: What ``training/summary.json`` holds: steps, why it ended, which step's weights were kept, and the
            held-out figures before and after.
    """

    summary: dict[str, Any]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    trainer_class: type[Trainer] | None = None,
) -> Outcome:
    """Train in this process, and write a model folder. `grace_train.training.train` takes every configuration.

    Args:
        config: The run.
        resume: Go on with what an interrupted run left in ``config.output``, if there is something.
        overwrite: Replace an earlier run.
        quiet: Show nothing while training.
        trainer_class: Does the work; None is `Trainer`.

    Raises:
        ConfigError: The configuration names another engine or method than the trainer's.
        ValueError: Data, model or checkpoint do not fit the configuration; before training starts.
        OSError: Something cannot be read or written.
        TrainingStopped: The run was stopped for its own good; its note says what is kept.
        Interrupted: SIGINT or SIGTERM came; its note says how to go on.
    """
    if trainer_class is None and (config.engine != "local" or config.method != "grace"):
        raise ConfigError(
            f"engine={config.engine} with method={config.method} is not trained here: call grace_train.training.train, "
            "which takes every configuration"
        )
    require_packages(*TRAINING)
    if config.compute.threads is not None:
        torch.set_num_threads(config.compute.threads)
    folder = RunFolder(config, resume=resume, overwrite=overwrite)
    try:
        finished = folder.summary() if folder.is_continued else None
        if finished is not None and finished["steps"] == finished["planned_steps"] == config.steps:
            check_same_run(config, folder.checkpoints.load().config)
            return Outcome(finished)
        with Views(config, folder, quiet=quiet) as views:
            return (trainer_class or Trainer)(config, folder, views).run()
    finally:
        folder.release()


class Trainer:
    """One run.

    Args:
        config: The run.
        folder: Where it writes, open.
        views: What shows and records it.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, views: Views) -> None:
        self.config = config
        self.folder = folder
        self.views = views
        # 1. The data first: a bad row must not cost the loading of a model.
        self.data, held_out = load_training_data(
            config.data, config.mode, seed=config.seed, max_queries=config.eval.max_queries
        )
        self.sampler = BatchSampler(self.data, config.batch_size, config.seed)
        self.total = config.steps or math.ceil(config.epochs * self.sampler.steps_per_epoch)
        self.dev = self._retrieval(config.eval.dev) if config.eval.dev else held_out
        self.test = self._retrieval(config.eval.test) if config.eval.test else None
        if config.eval.dev is not None and _is_trained_on(config.eval.dev, config):
            logger.warning(
                "eval.dev=%s is training data as well: what it measures is not held out. data.holdout keeps rows apart",
                config.eval.dev,
            )
        # 2. The model.
        self._load()
        buffer = config.reward.soft_buffer
        if config.length_penalty == "soft" and buffer is not None and buffer > self.maker.budget:
            raise ConfigError(f"reward.soft_buffer={buffer} is more than the budget of {self.maker.budget} tokens")
        weights = {
            "positive": 1.0,
            "negative": 1.0,
            "consistency": config.reward.lambda_consistency,
            "hard": config.lambda_hard,
        }
        self.monitor = HealthMonitor(config.stop, weights, penalizes_unfinished=config.length_penalty != "none")
        # 3. What a checkpoint remembers beside weights and optimiser.
        self.step = 0
        self.interruption = Interruption(
            lambda text: self.views.live.message(text), leaves_evaluations=self._can_leave_evaluations
        )
        self.progress = Progress()

    def _load(self) -> None:
        """Make what generates (``maker``), what learns (``learner``) and what both work on (``policy``)."""
        self.policy: Policy = load_policy(self.config, keep_reference=self.config.keeps_reference)
        self.fingerprint = self.policy.fingerprint()
        self.learner = Learner(self.policy, self.config, self.total)
        self.maker = RolloutMaker(self.policy, self.config)

    def _retrieval(self, path: str) -> RetrievalData:
        settings = self.config.eval
        mode = settings.mode or self.config.mode
        return load_retrieval(path, self.config.data, mode=mode, max_queries=settings.max_queries)

    # ---------------------------------------------------------------- the run

    def run(self) -> Outcome:
        """Train to the end, or until something stops it."""
        with self.interruption, self._stopping():
            self.views.start(self.total)
            if self.folder.is_continued:
                self._restore()
                if self.progress.unevaluated is not None:
                    self._end_step(is_kept=True)
            else:
                self._begin()
            self._train()
            return self._finish()

    def _train(self) -> None:
        """All steps that are left."""
        while self.step < self.total and self._stopped is None:
            sides = self._advance()
            self._after_step(sides)

    def _after_step(self, sides: list[Side]) -> None:
        """What is due after a step: an evaluation, samples, a checkpoint, an early end."""
        every = self.config.eval.every
        if every and (self.step % every == 0 or self.step == self.total):
            # First what needs the step's rollouts: a run that is interrupted while it evaluates goes on without them.
            self.progress.unevaluated = self._distance(sides)
        self._end_step(is_kept=self.step % self.config.checkpoint.every == 0)

    def _end_step(self, *, is_kept: bool) -> None:
        """The same but for what needs the step's rollouts.

        Args:
            is_kept: Write a checkpoint in any case.
        """
        try:
            improved = self._evaluate_if_due()
        except Interrupted:
            self._save_checkpoint()
            raise
        self._sample_if_due()
        last = self.step == self.total or self._stopped is not None
        if is_kept or improved or last or self.interruption.requested:
            self._save_checkpoint()
        if not last:
            self.interruption.check()

    def _begin(self) -> None:
        """Before the first step: what the start model can do, and a checkpoint to go on from."""
        self.folder.begin(self.config)
        if self.config.log.sample_texts:
            self.progress.sample_texts = list(self.config.log.choose_texts(self._texts_to_show()))
        start: dict[str, Any] = {}
        if self.dev is not None and self.config.eval.every:
            found = self._evaluate(self.dev, "dev")
            start["dev"] = found.figures()
            self.views.log.record(0, found.values())
            self._note_result(found)
        if self.test is not None:
            start["test"] = self._evaluate(self.test, "test").figures()
        start |= self._more_figures()
        self.progress.start = start
        self._record_samples()
        self._save_checkpoint()

    def _advance(self) -> list[Side]:
        """One step with its log."""
        step = self.step + 1
        try:
            values, sides = self._step(step)
        except NonFiniteVectorError as error:
            raise TrainingStopped(f"step {step}: {error}") from error
        self._record_step(step, values)
        return sides

    def _record_step(self, step: int, values: dict[str, float]) -> None:
        self.views.log.record(step, values)
        self.views.live.update(step, values)
        self.monitor.check(step, values)
        self.step = step

    def _step(self, step: int) -> tuple[dict[str, float], list[Side]]:
        started = time.perf_counter()
        # 1. A batch without repeated texts.
        instances = self.sampler.next()
        # 2. Rollouts: rationales, their log-probabilities, and the vectors that rewards compare.
        batch = self.maker.make(instances, step)
        generated = time.perf_counter()
        # 3. Rewards, length penalty, advantages.
        sides = score(batch, self.config, self.maker.budget)
        values = describe(batch, sides)
        # 4. The update.
        try:
            values |= self.learner.update(sides, step)
        except torch.OutOfMemoryError as error:
            raise TrainingStopped(
                f"step {step}: the update does not fit into memory. Go on (--resume) with a lower "
                "compute.tokens_per_microbatch, or with compute.gradient_checkpointing=true"
            ) from error
        ended = time.perf_counter()
        _, tokens = rollout_count(batch)
        values |= {
            "rollout/tokens_per_second": tokens / (generated - started),
            "progress/epoch": float(self.sampler.epoch),
            "time/step": ended - started,
            "time/rollout": generated - started,
            "time/update": ended - generated,
        }
        return values, sides

    # ---------------------------------------------------------------- evaluation

    def _distance(self, sides: list[Side]) -> dict[str, float]:
        """How far the policy is from the start model, for the log; nothing where that is not measured."""
        if sides and (self.config.algorithm.kl > 0 or self.config.eval.kl):
            return {"kl/start": self.learner.divergence_from_start(sides)}
        return {}

    def _evaluate_if_due(self) -> bool:
        """Evaluate on dev every so many steps and at the end. Returns whether it was the best so far."""
        more = self.progress.unevaluated
        if more is None:
            return False
        values: dict[str, float] = {}
        improved = False
        if self.dev is not None:
            found = self._evaluate(self.dev, "dev")
            values |= found.values()
            improved = self._note_result(found)
        values |= more
        self.progress.unevaluated = None
        if values:
            self.views.log.record(self.step, values)
            self.views.live.update(self.step, values)
        return improved

    def _note_result(self, found: Evaluation) -> bool:
        value = found.ndcg.mean
        improved = self.progress.is_better(value)
        if improved and self.config.eval.keep == "best":
            self._keep_best()
        self.progress.note(self.step, value, found.figures())
        return improved

    @property
    def _stopped(self) -> str | None:
        """Why the run ends before its last step, if it does."""
        patience = self.config.eval.patience
        if patience is None or self.progress.without_better < patience:
            return None
        return f"{patience} evaluations in a row without a better {METRIC} on dev"

    def _evaluate(self, data: RetrievalData, name: str) -> Evaluation:
        return self._measure(data, name, self._eval_budget)

    def _measure(self, data: RetrievalData, name: str, budget: int | None) -> Evaluation:
        self.interruption.check()
        count = len(data.queries) + len(data.documents)
        title = f"step {self.step}: evaluating on {name}"
        self.views.live.message(f"{title}: {len(data.queries)} queries, {count} texts")
        done, told = 0, time.monotonic()

        def advance(texts: int) -> None:
            nonlocal done, told
            done += texts
            if self._can_leave_evaluations:
                self.interruption.check()
            if time.monotonic() - told > SECONDS_BETWEEN_NOTES:
                told = time.monotonic()
                self.views.live.message(f"{title}: {done} of {count} texts")

        return evaluate(self.policy, data, budget=budget, progress=advance)

    _eval_budget: int | None = None
    """Tokens of a rationale in evaluations; None is the model's own."""

    _can_leave_evaluations = True
    """Whether a signal ends an evaluation between two texts, or only before it begins."""

    def _more_figures(self) -> dict[str, Any]:
        """Held-out figures of another kind, for the summary, before and after."""
        return {}

    # ---------------------------------------------------------------- samples

    def _texts_to_show(self) -> list[str]:
        if self.dev is not None:
            return [text for pair in zip(self.dev.queries, self.dev.documents, strict=False) for text in pair]
        source = self.data.sources[0]
        return [source.store.row(int(index)).query for index in source.rows[:SAMPLE_ROWS]]

    def _sample_if_due(self) -> None:
        if self.step % self.config.log.samples_every == 0 or self.step == self.total:
            self._record_samples()

    def _record_samples(self) -> None:
        texts = self.progress.sample_texts
        if not texts:
            return
        module = self.policy.module
        prompts = module.prompts_of(texts, self.config.data.document_instruction)
        with self.policy.autocast():
            rollouts = module.rollouts(prompts, Sampling(max_new_tokens=module.max_new_tokens))
        self.views.samples.record(
            self.step,
            texts,
            [module.prompt.decode(rollout.ids) for rollout in rollouts],
            [rollout.finished for rollout in rollouts],
        )

    # ---------------------------------------------------------------- checkpoints

    def _save_checkpoint(self) -> None:
        self._save_state(self.policy.state_dict(), self.learner.optimizer.state_dict())

    def _save_state(self, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        self.folder.checkpoints.save(
            RunState(
                step=self.step,
                weights=weights,
                optimizer=optimizer,
                sampler=self.sampler.state_dict(),
                monitor=self.monitor.state_dict(),
                progress=asdict(self.progress),
                config=self.config.to_dict(),
                fingerprint=self.fingerprint,
            )
        )

    def _restore(self) -> None:
        state = self.folder.checkpoints.load()
        check_same_run(self.config, state.config)
        progress = Progress(**state.progress)
        best = progress.best_step
        if self.config.eval.keep == "best" and best is not None and not self.folder.checkpoints.has_best(best):
            raise ValueError(
                f"the weights of step {best}, the best so far, are not in {self.folder.checkpoints.folder}: go on with "
                "eval.keep=last"
            )
        if state.fingerprint != self.fingerprint:
            raise ValueError(
                f"the run in {self.folder.path} began with another model than what model={self.config.model} is now: "
                "use that one, or start with --overwrite"
            )
        self.folder.describe(self.config)
        self._restore_weights(state)
        self.sampler.load_state_dict(state.sampler)
        self.monitor.load_state_dict(state.monitor)
        self.progress = progress
        self.step = state.step
        # A run that was killed between the evaluation's records and the next checkpoint makes it again.
        is_evaluated = progress.unevaluated is None
        self.views.log.continue_from(self.step, is_evaluated=is_evaluated)
        self.views.samples.continue_from(self.step if is_evaluated else self.step - 1)
        self.views.live.message(f"going on after step {self.step} of {self.total}")

    def _restore_weights(self, state: RunState) -> None:
        self.policy.load_state_dict(state.weights)
        self.learner.optimizer.load_state_dict(state.optimizer)

    def _keep_best(self) -> None:
        self.folder.checkpoints.save_best(self.step, self.policy.state_dict())

    def _use_best(self, step: int) -> None:
        self.policy.load_state_dict(self.folder.checkpoints.load_best(step))

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Where a run is stopped, draw its curves and say what is kept."""
        try:
            yield
        except (TrainingStopped, NonFiniteVectorError) as error:
            if not self.folder.checkpoints.steps():  # the start model itself
                raise
            self._draw_curves()
            stopped = error if isinstance(error, TrainingStopped) else TrainingStopped(f"step {self.step}: {error}")
            stopped.add_note(f"Log and curves are in {self.folder.training}; {self._kept()}.")
            raise stopped from error.__cause__
        except Interrupted as error:
            error.add_note(f"({error}) {self._how_to_go_on()}")
            raise
        except (OSError, KeyboardInterrupt) as error:
            if "--resume" not in str(error):
                error.add_note(f"({self._kept()}: go on with --resume)")
            raise

    def _how_to_go_on(self) -> str:
        if not self.folder.checkpoints.steps():
            return "before the first step: there is no checkpoint yet, and --resume begins anew"
        return (
            f"after step {self.step} of {self.total}; a checkpoint is in {self.folder.path}: go on with the same "
            "command and --resume"
        )

    def _kept(self) -> str:
        steps = self.folder.checkpoints.steps()
        return f"the last checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint yet"

    # ---------------------------------------------------------------- the end

    def _finish(self) -> Outcome:
        """Choose the weights, measure them on test, write the model folder."""
        chosen, best = self.step, self.progress.best_step
        if self.config.eval.keep == "best" and best is not None and best != self.step:
            chosen = best
            self._use_best(best)
        end: dict[str, Any] = {}
        if str(chosen) in self.progress.dev:
            end["dev"] = self.progress.dev[str(chosen)]
        if self.test is not None:
            end["test"] = self._evaluate(self.test, "test").figures()
        end |= self._more_figures()
        dtype = getattr(torch, self.config.save_dtype) if self.config.save_dtype else self.policy.start_dtype
        earlier_card = self.folder.earlier_card()
        self.folder.publish(lambda path: self.policy.save(path, name=self.folder.path.name, dtype=dtype))
        self._draw_curves()
        summary = {
            "output": str(self.folder.path),
            "method": self.config.method,
            "mode": self.config.mode,
            "reward": self.config.reward_name,
            "steps": self.step,
            "planned_steps": self.total,
            "stopped": self._stopped,
            "kept_step": chosen,
            "before": self.progress.start,
            "after": end,
            "model": shareable(self.config.model),
            "recipe": recipe_of(self.config),
        }
        self.folder.write_json(SUMMARY, summary)
        is_on_the_hub = "/" in self.config.model and summary["model"] == self.config.model
        self.folder.write_card(earlier_card, self.config.model if is_on_the_hub else None)
        return Outcome(summary)

    def _draw_curves(self) -> None:
        metrics = self.folder.training / METRICS_NAME
        if self.config.log.curves and metrics.is_file():
            draw_curves(metrics, self.folder.training / "curves.png")


def _is_trained_on(path: str, config: TrainConfig) -> bool:
    files = [Path(source.path).expanduser().resolve() for source in config.data.sources()]
    return Path(path).expanduser().resolve() in files
