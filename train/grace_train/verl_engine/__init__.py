"""The same training on Ray, FSDP and vLLM, through the released verl: a plug-in, verl itself is not changed.

| module | what |
|---|---|
| `requirements` | versions and GPUs, looked at before any work starts |
| `overrides` | our configuration in verl's terms |
| `cluster`, `diagnosis` | starts and stops everything, every wait has a limit; why something died |
| `agent_loop` | runs in verl's agent-loop processes: the rollouts of one instance |
| `worker`, `rows`, `loss` | run in verl's FSDP workers: pooled vectors, updates |
| `jobs` | what driver and cluster say to each other about rollouts |
| `rollouts`, `learner`, `policy` | what the trainer of `grace_train.local` asks for, done by the cluster |
| `trainer` | that trainer on a cluster |
| `cpu_support` | lets tests run all of this without a GPU; nothing imports it |

Importing this package imports neither verl, Ray nor vLLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grace_train.config import TrainConfig
    from grace_train.local.trainer import Outcome


def train(config: TrainConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> Outcome:
    """Train as a configuration with ``engine: verl`` says, and write a model folder.

    Takes the arguments of `grace_train.local.trainer.train` and raises what it raises.

    Raises:
        ConfigError: Something that this engine or this machine cannot do.
        EngineMissingError: verl, Ray or vLLM is missing, or of another version.
        ClusterError: A worker died, or a wait took too long; a `TrainingStopped`.
    """
    import contextlib
    import logging
    import os
    import sys

    from grace_train.local.trainer import train as train_with
    from grace_train.verl_engine.overrides import check
    from grace_train.verl_engine.requirements import require_engine, require_gpus

    check(config)
    require_gpus(config)
    require_engine(config)
    os.environ.setdefault("VERL_LOGGING_LEVEL", "WARNING")
    logging.getLogger("transfer_queue").setLevel(logging.ERROR)
    # verl prints; standard output is for results.
    with contextlib.redirect_stdout(sys.stderr):
        from grace_train.verl_engine.trainer import VerlTrainer

        return train_with(config, resume=resume, overwrite=overwrite, quiet=quiet, trainer_class=VerlTrainer)


def settings(config: TrainConfig) -> list[str]:
    """What verl gets, one ``key=value`` each; needs neither verl nor the model's weights.

    Raises:
        ConfigError: Something that this engine cannot do.
    """
    from pathlib import Path

    from grace_st.config import CONFIG_NAME, GraceConfig
    from grace_train.local.run_folder import TRAINING
    from grace_train.verl_engine.overrides import check, derived, lines

    check(config)
    seq_length, new_tokens = 1024, 256  # of `grace-st convert`
    given = Path(config.model).expanduser() / CONFIG_NAME
    if given.is_file():
        folder = GraceConfig.from_file(given)
        seq_length, new_tokens = folder.max_seq_length, folder.max_new_tokens
    limits = config.prompt.max_seq_length or seq_length, config.prompt.max_new_tokens or new_tokens
    return lines(derived(config, str(Path(config.output) / TRAINING / "start"), *limits))
