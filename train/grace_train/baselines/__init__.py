"""The baselines of the paper's Tables 1 and 2: contrastive learning (CL) and SimCSE, on the prompt alone.

sentence-transformers' own trainer and losses do the work. Data, evaluation, checkpoints, log and run folder are those
of `grace_train.local.trainer`, so that a baseline is compared with GRACE on the same batches by the same measure.

| module | what |
|---|---|
| `pooling` | the prompt's vector with gradients |
| `batches` | the batches of `grace_train.data` as columns of sentence-transformers |
| `trainer` | one run |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grace_train.config import TrainConfig
    from grace_train.local.trainer import Outcome


def train(config: TrainConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> Outcome:
    """Train as a configuration with ``method: cl`` or ``simcse`` says, and write a model folder.

    Takes the arguments of `grace_train.local.trainer.train` and raises what it raises.

    Raises:
        ConfigError: The model cannot be trained like this: SimCSE on a model without dropout.
    """
    from grace_train.baselines.trainer import BaselineTrainer
    from grace_train.extras import require_packages
    from grace_train.local.trainer import train as train_with

    require_packages("accelerate", "datasets")
    return train_with(config, resume=resume, overwrite=overwrite, quiet=quiet, trainer_class=BaselineTrainer)
