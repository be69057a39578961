"""The cluster of a run: verl's workers and vLLM servers, started, called and stopped. Every wait has a limit.

Knows token ids, rows and weights; nothing of instances, rewards or steps. The order of events on the GPUs is kept
here: vLLM is awake, with the newest weights, while rollouts are made, and asleep while anything else is done.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import numpy as np
import ray
import transfer_queue as tq
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
from verl.trainer.ppo.utils import Role, need_reference_policy
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.config import validate_config
from verl.utils.device import auto_set_device

from grace_st import ray_init
from grace_train.options import ConfigError
from grace_train.verl_engine.diagnosis import cause_in, dead_process, log_folder, logged_errors
from grace_train.verl_engine.jobs import ClusterError, Job, Written
from grace_train.verl_engine.requirements import on_cpu

T = TypeVar("T")

logger = logging.getLogger(__name__)

PARTITION = "train"
_POLL_SECONDS = 0.05
_MAX_POLL_SECONDS = 1.0
_LOOK_SECONDS = 5.0
_STOP_SECONDS = 60.0


class _Parts(PPOTrainerSync):
    """verl's trainer as a maker of workers and servers: its data, steps and checkpoints are not used."""

    def _init_dataloader(self) -> None:
        self.steps_per_epoch = self.total_training_steps = 1

    def _init_resource_pool_mgr(self) -> None:
        from grace_train.verl_engine.worker import GraceWorker

        super()._init_resource_pool_mgr()
        for role in (Role.ActorRollout, Role.ActorRolloutRef):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(GraceWorker)
                self.prefix = str(role)

    def _load_checkpoint(self) -> None:
        self.global_steps = 0

    def on_init_end(self) -> None:
        """The first weights are sent when the first rollouts are made."""


class Cluster:
    """All processes of a run.

    Args:
        config: verl's configuration.
        limit: Seconds that any one wait may take.

    Raises:
        ClusterError: It does not come up in time, or Ray does not start.
        ConfigError: Ray has fewer GPUs than asked for, or another run of verl is at work there.
    """

    def __init__(self, config: Any, limit: float) -> None:
        self.config = config
        self.limit = limit
        self._awake = False
        self._version = 0
        self._started = time.time()
        self._looked = time.monotonic()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------- start and stop

    def _start(self) -> None:
        from omegaconf import OmegaConf

        config = self.config
        auto_set_device(config)
        validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=False)
        environment = get_ppo_ray_runtime_env(config)
        environment.setdefault("env_vars", {})["TRANSFER_QUEUE_ENABLE"] = "1"
        options = OmegaConf.to_container(config.ray_kwargs.get("ray_init", {}), resolve=True)
        options = {key: value for key, value in options.items() if value is not None}
        options["runtime_env"] = OmegaConf.to_container(
            OmegaConf.merge(environment, options.get("runtime_env", {}) or {}), resolve=True
        )
        if options.get("address") is not None:  # of a cluster that runs already, nothing can be chosen
            options = {key: options[key] for key in ("address", "runtime_env", "log_to_driver")}
        try:
            ray_init.init(ray, options)
        except ray_init.TooSlowError as error:
            raise ClusterError(
                f"Ray did not start ({error}): the machine may be too busy, or out of memory or disk; "
                "`ray start --head` starts it beforehand, for cluster.address=auto"
            ) from error
        self._check_gpus()
        self._check_alone()
        OmegaConf.resolve(config)
        self._within("the queue of rollouts to start", lambda: tq.init(config.transfer_queue))
        self.parts = self._within("the workers to start", self._make_parts)
        self.agents = self._within("the agent loops to start", self._make_agents)
        self.world_size: int = self.parts.actor_rollout_wg.world_size

    def _check_gpus(self) -> None:
        wanted = self.config.trainer.n_gpus_per_node * self.config.trainer.nnodes
        present = int(ray.cluster_resources().get("GPU", 0))
        if wanted > present:
            hint = " (ray_kwargs.ray_init.num_gpus)" if on_cpu() else ""
            raise ConfigError(
                f"cluster.gpus x cluster.nodes asks for {wanted} GPUs, and Ray has {present}{hint}: lower them, or "
                "join more nodes with `ray start`"
            )

    def _check_alone(self) -> None:
        """Verl's queue has one name on a cluster: the run that ends first would take the other's away."""
        try:
            ray.get_actor("TransferQueueController", namespace="transfer_queue")
        except ValueError:
            return
        raise ConfigError(
            f"another run of verl is at work on the Ray cluster {self.config.ray_kwargs.ray_init.address!r}: wait for "
            "its end, or start a cluster of its own (cluster.address=null)"
        )

    def _make_parts(self) -> _Parts:
        parts = _Parts(config=self.config)
        parts.init()
        return parts

    def _make_agents(self) -> Any:
        return AgentLoopManagerTQ.create(
            config=self.config,
            llm_client=self.parts.get_llm_client(),
            teacher_client=self.parts.get_teacher_client(),
            reward_loop_worker_handles=self.parts.get_reward_handles(),
        )

    def close(self) -> None:
        """Stop all processes of the run; never raises and never waits long."""
        if not ray.is_initialized():
            return
        for work in (tq.close, ray.shutdown):
            try:
                _in_background(work).result(timeout=_STOP_SECONDS)
            except Exception as error:  # the run is over; what is left is in Ray's logs
                logger.debug("stopping: %s", error)

    # ---------------------------------------------------------------- waiting

    def _within(self, what: str, work: Callable[[], T]) -> T:
        """Run something that blocks, but not longer than the limit, and not when a worker has died.

        Raises:
            ClusterError: Names what was waited for, and the cause.
        """
        future = _in_background(work)
        deadline = time.monotonic() + self.limit
        # Not `future.result(timeout)`: it raises the same TimeoutError that the work itself may raise.
        while not wait([future], timeout=min(_LOOK_SECONDS, max(0.1, deadline - time.monotonic()))).done:
            dead = dead_process()
            if dead:
                raise self._failed(what, dead)
            if time.monotonic() > deadline:
                raise self._too_long(what)
        try:
            return future.result()
        except (ConfigError, ClusterError):
            raise
        except Exception as error:
            raise self._failed(what, cause_in(error)) from error

    def _too_long(self, what: str) -> ClusterError:
        return ClusterError(
            f"waited {self.limit:.0f} s for {what}, which is cluster.step_limit: look into {log_folder()}, or raise it"
        )

    def _failed(self, what: str, cause: str) -> ClusterError:
        explained = self.explained(cause)
        if "OutOfMemoryError" in explained:
            explained += (
                ". Too little memory: lower compute.tokens_per_microbatch, or cluster.gpu_memory, or set "
                "cluster.offload=true or compute.gradient_checkpointing=true"
            )
        return ClusterError(f"while waiting for {what}: {explained}. Logs are in {log_folder()}; go on with --resume")

    # ---------------------------------------------------------------- rollouts

    def wake(self) -> None:
        """Have vLLM ready with the newest weights."""
        if not self._awake:
            self._version += 1
            manager = self.parts.checkpoint_manager
            self._within("the weights to reach vLLM", lambda: manager.update_weights(self._version))
            self._awake = True

    def sleep(self) -> None:
        """Have vLLM free its memory."""
        if self._awake:
            self._within("vLLM to free its memory", self.parts.checkpoint_manager.sleep_replicas)
            self._awake = False

    def generate(
        self, jobs: Sequence[Job], eos: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> list[list[Written] | str]:
        """Make rollouts.

        Args:
            jobs: One for each instance.
            eos: Token ids that end a rationale.
            progress: Called with the number of jobs that have just been finished.

        Returns:
            For each job its rollouts in its order, or why there are none.

        Raises:
            ClusterError: They are not there in time.
        """
        self.wake()
        run = uuid.uuid4().hex
        uids = [f"{run}-{index}" for index in range(len(jobs))]
        fields = {
            "uid": np.array(uids, dtype=object),
            "index": np.arange(len(jobs)),
            "job": np.array([job.packed(eos) for job in jobs], dtype=object),
            "__rollout_n__": np.ones(len(jobs), dtype=np.int64),
        }
        batch = tu.get_tensordict(fields)
        tu.assign_non_tensor_data(batch, "global_steps", self._version)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": self._version} for _ in jobs]

        def submit() -> None:
            tq.kv_batch_put(keys=uids, partition_id=PARTITION, tags=tags)
            self.agents.generate_sequences(batch)

        self._within("the agent loops to take the prompts", submit)
        self._await_finished(uids, progress)
        return self._within("the rollouts to be read", lambda: self._collect(uids, jobs))

    def _await_finished(self, uids: Sequence[str], progress: Callable[[int], None] | None) -> None:
        """Wait for rollouts; the limit is for the time in which none is finished."""
        deadline, done = time.monotonic() + self.limit, 0
        while done < len(uids):
            # The queue's client waits for ever for a controller that is gone.
            asked = time.monotonic()
            tags = self._within("rollouts", _tags)
            # The answer names all rows: with thousands of them, asking often would cost what generating needs.
            pause = min(max(_POLL_SECONDS, 10 * (time.monotonic() - asked)), _MAX_POLL_SECONDS)
            finished = sum(tags.get(uid, {}).get("status") in ("finished", "failure") for uid in uids)
            if finished > done:
                if progress is not None:
                    progress(finished - done)
                deadline, done = time.monotonic() + self.limit, finished
            elif time.monotonic() > deadline:
                raise self._too_long(f"rollouts ({done} of {len(uids)} instances are there)")
            if done < len(uids):
                self._look()
                time.sleep(pause)

    def _look(self) -> None:
        """Every few seconds, see whether all processes are alive."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            dead = dead_process()
            if dead:
                raise self._failed("rollouts", dead)

    def _collect(self, uids: Sequence[str], jobs: Sequence[Job]) -> list[list[Written] | str]:
        tags = _tags()
        wanted = [key for uid, job in zip(uids, jobs, strict=True) for key in (f"{uid}_0_{n}" for n in range(job.size))]
        keys = [key for key in wanted if key in tags]
        rows: dict[str, tuple[str, Written]] = {}
        if keys:
            names = ["responses", "rollout_log_probs", "extra_fields"]
            data = tq.kv_batch_get(keys=keys, partition_id=PARTITION, select_fields=names)
            columns = (list(data["responses"].unbind()), list(data["rollout_log_probs"].unbind()))
            for key, ids, logprobs, extra in zip(keys, *columns, list(data["extra_fields"]), strict=True):
                cause = getattr(extra, "data", extra).get("cause", "")
                rows[key] = (cause, Written(tuple(ids.tolist()), tuple(logprobs.tolist())))
        tq.kv_clear(keys=[*uids, *keys], partition_id=PARTITION)
        found: list[list[Written] | str] = []
        for uid, job in zip(uids, jobs, strict=True):
            own = [rows.get(f"{uid}_0_{n}") for n in range(job.size)]
            cause = next((item[0] for item in own if item and item[0]), "")
            whole = [item[1] for item in own if item is not None]
            complete = not cause and len(whole) == job.size
            found.append(whole if complete else cause or "the rollouts did not arrive")
        return found

    # ---------------------------------------------------------------- workers

    def call(self, method: str, *shared: Any, each: Sequence[Any] | None = None, what: str) -> list[Any]:
        """Call a method of every worker and wait for all; the first failure counts.

        Args:
            method: Of `grace_train.verl_engine.worker.GraceWorker`.
            shared: Arguments for all.
            each: One first argument for each worker.
            what: For messages.
        """
        self.sleep()
        group = self.parts.actor_rollout_wg
        name = f"{self.parts.prefix}_{method}"
        first = [(item,) for item in each] if each is not None else [()] * self.world_size

        def work() -> list[Any]:
            refs = [
                getattr(worker, name).remote(*own, *shared) for worker, own in zip(group.workers, first, strict=True)
            ]
            waiting = list(refs)
            while waiting:
                ready, waiting = ray.wait(waiting, num_returns=1)
                ray.get(ready)  # raises at once where one of several workers has failed
            results: list[Any] = ray.get(refs)
            return results

        return self._within(what, work)

    def explained(self, cause: str) -> str:
        """A cause, and what the processes have logged about it."""
        return f"{cause.rstrip('.')}{logged_errors(self._started)}"


def _tags() -> dict[str, dict[str, Any]]:
    """What the queue says about each of its rows."""
    tags: dict[str, dict[str, Any]] = (tq.kv_list(PARTITION) or {}).get(PARTITION, {})
    return tags


def _in_background(work: Callable[[], T]) -> Future[T]:
    """Run something in a thread that does not keep the program alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
