"""The trainer of `grace_train.local` with verl's workers and vLLM in the place of one process.

Data, batches, rewards, advantages, evaluation, samples, logs, stopping and the run folder are that trainer's. This
file says what is different: where rollouts, vectors and updates come from, and how weights are kept.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grace_train.config import TrainConfig
from grace_train.local.checkpoints import RunState
from grace_train.local.run_folder import RunFolder
from grace_train.local.scoring import Side
from grace_train.local.trainer import Outcome, Trainer
from grace_train.local.views import Views
from grace_train.report.log import RunLog
from grace_train.verl_engine.cluster import Cluster
from grace_train.verl_engine.learner import ClusterLearner
from grace_train.verl_engine.overrides import compose, derived
from grace_train.verl_engine.policy import START, ClusterModule, ClusterPolicy, StartModel
from grace_train.verl_engine.rollouts import ClusterRolloutMaker

logger = logging.getLogger(__name__)


class VerlTrainer(Trainer):
    """One run on a cluster."""

    cluster: Cluster | None = None
    _whole_shards: int | None = None
    """The step whose shards are those of the weights that the workers have now, if its checkpoint is whole."""

    _can_leave_evaluations = False  # vLLM would still write what was asked for while weights and memory are taken away

    def __init__(self, config: TrainConfig, folder: RunFolder, views: Views) -> None:
        try:
            super().__init__(config, folder, views)
        except BaseException:
            self._close()
            raise

    def _load(self) -> None:
        config = self.config
        self.views.note("reading the start model")
        start = StartModel(config, self.folder.keep(START))
        limits = start.config.max_seq_length, start.config.max_new_tokens
        values = derived(config, str(start.path), *limits)
        verl_config = compose(values)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.views.note("starting Ray, FSDP workers and vLLM")
        self.cluster = Cluster(verl_config, config.cluster.step_limit)
        tokens = int(values["actor_rollout_ref.actor.ppo_max_token_len_per_gpu"])
        module = ClusterModule(start, self.cluster, tokens)
        self.module = module
        # The trainer uses these where it would use a Policy, a Learner and a RolloutMaker.
        self.policy = ClusterPolicy(module, config, start)  # type: ignore[assignment]
        self.learner = ClusterLearner(self.cluster, config, self.total)  # type: ignore[assignment]
        self.maker = ClusterRolloutMaker(module, config)  # type: ignore[assignment]
        self.fingerprint = start.fingerprint
        if config.cluster.loggers:
            self.views.log = _WithVerlLoggers(self.views.log, verl_config)

    def run(self) -> Outcome:
        """Train to the end, or until something stops it; the cluster is stopped in any case."""
        try:
            return super().run()
        finally:
            self._close()

    def _close(self) -> None:
        if self.cluster is not None:
            self.cluster.close()

    def _step(self, step: int) -> tuple[dict[str, float], list[Side]]:
        traffic = self.module.traffic
        traffic |= dict.fromkeys(traffic, 0)
        spent = self.module.seconds
        spent |= dict.fromkeys(spent, 0.0)
        values, sides = super()._step(step)
        values |= {
            "time/embed": spent["embed"],
            "cluster/vector_bytes": float(traffic["bytes"]),
            "cluster/state_bytes": float(traffic["states"]),  # what [N, L, d] would have been
            "cluster/lost_instances": float(self.maker.lost),  # type: ignore[attr-defined]
        }
        return values, sides

    # ---------------------------------------------------------------- weights stay with the workers

    def _save_checkpoint(self) -> None:
        """The workers' shards first: with the driver's file there, they are whole."""
        if self._whole_shards != self.step:  # verl writes in place: a run that is killed meanwhile would lose them
            self._call("save_run", str(self._shards(self.step)), what="the checkpoint")
        self._save_state({}, {})
        self._whole_shards = self.step
        kept = {self._shards(step) for step in self.folder.checkpoints.steps()}
        for folder in self.folder.checkpoints.folder.glob("shards-*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _restore_weights(self, state: RunState) -> None:
        self._call("load_run", str(self._shards(state.step)), what="the checkpoint to be read")
        self._whole_shards = state.step

    def _keep_best(self) -> None:
        self.folder.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder.checkpoints.best_path(self.step)
        self._call("save_weights", str(path), self.step, what="the best weights to be written")

    def _use_best(self, step: int) -> None:
        path = self.folder.checkpoints.best_path(step)
        self._call("load_weights", str(path), what="the best weights to be read")

    def _call(self, method: str, *arguments: Any, what: str) -> None:
        assert self.cluster is not None
        self.cluster.call(method, *arguments, what=what)

    def _shards(self, step: int) -> Path:
        return self.folder.checkpoints.folder / f"shards-{step:06d}"


class _WithVerlLoggers(RunLog):
    """Our log, and verl's loggers with the same values.

    Args:
        log: Ours.
        config: verl's configuration, which names the loggers.
    """

    def __init__(self, log: RunLog, config: Any) -> None:
        from omegaconf import OmegaConf
        from verl.utils.tracking import Tracking

        self.__dict__.update(log.__dict__)
        self._tracking = Tracking(
            project_name=config.trainer.project_name,
            experiment_name=config.trainer.experiment_name,
            default_backend=list(config.trainer.logger),
            config=OmegaConf.to_container(config, resolve=True),
        )

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Write values of a step down."""
        super().record(step, values)
        self._tracking.log(data=dict(values), step=step)

    def close(self) -> None:
        """Write out what is pending."""
        super().close()
        self._tracking.finish(exit_code=0)
