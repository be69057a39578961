"""A baseline's run: sentence-transformers trains, and the trainer of `grace_train.local` does all that is around it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from grace_train.baselines.batches import StepBatches
from grace_train.baselines.pooling import PromptPooling, turn_dropout_on
from grace_train.config import TrainConfig
from grace_train.data.retrieval_data import RetrievalData
from grace_train.local.evaluation import Evaluation
from grace_train.local.loading import load_policy
from grace_train.local.rollouts import RolloutMaker, role_seed
from grace_train.local.trainer import Outcome, Trainer
from grace_train.local.update import Learner, learning_rate
from grace_train.options import ConfigError

logger = logging.getLogger(__name__)


class BaselineTrainer(Trainer):
    """One run of ``method: cl`` or ``simcse``.

    Dev, which chooses the weights, and test are measured on the prompt alone, which is what is trained; summary and
    table have them with rationales as well. The model folder's default is a budget of 0.
    """

    _eval_budget = 0

    def _load(self) -> None:
        config = self.config
        if config.ignored:
            logger.warning("method=%s has no rollouts, so it ignores %s", config.method, ", ".join(config.ignored))
        self.policy = load_policy(config, keep_reference=False)
        self.fingerprint = self.policy.fingerprint()
        if self.policy.device.index not in (None, 0):
            raise ConfigError(
                f"compute.device={config.compute.device!r}: sentence-transformers' trainer takes the first device: "
                "use CUDA_VISIBLE_DEVICES to choose one"
            )
        if config.method == "simcse":
            turn_dropout_on(self.policy, config.contrastive.dropout)
        self.learner = Learner(self.policy, config, self.total)  # its optimiser
        self.maker = RolloutMaker(self.policy, config)  # its budget

    def _train(self) -> None:
        if self.step >= self.total or self._stopped is not None:
            return
        settings = self.config.optimizer
        optimizer = self.learner.optimizer
        for group in optimizer.param_groups:  # a checkpoint's has the last step's rate
            group["lr"] = group["initial_lr"] = settings.learning_rate
        done = self.step
        schedule = LambdaLR(
            optimizer, lambda index: learning_rate(settings, done + index + 1, self.total) / settings.learning_rate
        )
        device = str(self.policy.device)
        model = SentenceTransformer(modules=[PromptPooling(self.policy)], device=device, similarity_fn_name="cosine")
        trainer = _StTrainer(
            model=model,
            args=self._arguments(),
            loss=_loss(model, self.config),
            callbacks=[_AfterStep(self)],
            optimizers=(optimizer, schedule),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.batches = StepBatches(self.sampler, self.total - self.step, self.policy.module)
        try:
            trainer.train()
        finally:
            self.policy.module.eval()

    def _arguments(self) -> SentenceTransformerTrainingArguments:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.folder.training),
            max_steps=self.total - self.step,
            per_device_train_batch_size=self.config.batch_size,
            max_grad_norm=self.config.optimizer.max_grad_norm,
            seed=role_seed(self.config.seed, 0, "baseline") % 2**31,
            use_cpu=self.policy.device.type == "cpu",
            logging_steps=1,
            logging_nan_inf_filter=False,  # a loss that is not finite stops the run
            save_strategy="no",
            eval_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        arguments._n_gpu = min(1, arguments.n_gpu)
        return arguments

    def finish_step(self, logs: Mapping[str, float], seconds: float) -> bool:
        """What is due after a step.

        Args:
            logs: What sentence-transformers' trainer says of it.
            seconds: How long it took.

        Returns:
            Whether the run ends here.
        """
        self.policy.module.eval()  # evaluations are without dropout
        step = self.step + 1
        values = {
            "loss/contrastive": float(logs["loss"]),
            "loss/grad_norm": float(logs["grad_norm"]),
            "loss/learning_rate": learning_rate(self.config.optimizer, step, self.total),
            "progress/epoch": float(self.sampler.epoch),
            "time/step": seconds,
        }
        self._record_step(step, values)
        self._after_step([])
        return self._stopped is not None

    def _more_figures(self) -> dict[str, Any]:
        found = {}
        for name, data in (("dev", self.dev), ("test", self.test)):
            if data is not None and (name == "test" or self.config.eval.every):
                found[f"{name}_with_rationales"] = self._with_rationales(data, name).figures()
        return found

    def _with_rationales(self, data: RetrievalData, name: str) -> Evaluation:
        return self._measure(data, f"{name} with rationales", self.maker.budget)

    def _finish(self) -> Outcome:
        # What was trained is what the folder serves. The figures have budgets of their own.
        self.policy.module.max_new_tokens = 0
        return super()._finish()


class _StTrainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer on batches that are there already."""

    batches: StepBatches

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches as they come, without another shuffle."""
        return DataLoader(self.batches, batch_size=None)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """The model folder has a card of its own."""


class _AfterStep(TrainerCallback):
    """Tells a `BaselineTrainer` of each step.

    Args:
        run: What is told.
    """

    def __init__(self, run: BaselineTrainer) -> None:
        self._run = run
        self._started = 0.0

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seed dropout by the step, so that a resumed run computes the same."""
        self._started = time.perf_counter()
        torch.manual_seed(role_seed(self._run.config.seed, self._run.step + 1, "dropout"))

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """After each step; the trainer's summary at the end is not one."""
        if logs is None or "loss" not in logs:
            return
        if self._run.finish_step(logs, time.perf_counter() - self._started):
            control.should_training_stop = True


def _loss(model: SentenceTransformer, config: TrainConfig) -> nn.Module:
    settings = config.contrastive
    scale = 1 / settings.temperature
    if settings.mini_batch_size is None:
        return MultipleNegativesRankingLoss(model, scale=scale)
    return CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=settings.mini_batch_size)
