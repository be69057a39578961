"""What is the same for all runs of the experiment."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from harness.digests import run_digest
from harness.training import common
from reward_choice.rows import Run


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of a run.

    Attributes:
        steps: Of a GRACE run, where its row says nothing else.
        batch_size: Instances of a batch.
        queries: Most queries of dev, and of test; None is all.
        perplexity_texts: Texts whose perplexity is measured.
        sampled_texts: Texts of which K rationales are sampled, to see how many differ.
    """

    steps: int = 30
    batch_size: int = 8
    queries: int | None = 150
    perplexity_texts: int = 400
    sampled_texts: int = 16

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "perplexity_texts", "sampled_texts"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        if self.queries is not None and self.queries < 2:
            raise ValueError(f"queries must be at least 2, or left out, got {self.queries}")


SMOKE = Settings(steps=2, batch_size=4, queries=12, perplexity_texts=20, sampled_texts=4)


def changes_of(run: Run, settings: Settings, *, model: str, output: str) -> list[str]:
    """The changes to the bundled configuration ``nano`` that make a run.

    Args:
        run: Of a row that is trained.
        settings: Sizes.
        model: Folder of the start model.
        output: Folder that is written.
    """
    own = list(run.row.changes or ())
    if settings == SMOKE:  # whatever steps the row has of its own
        own = [change for change in own if not change.startswith("steps=")]
    own = [f"steps={2 * settings.steps}" if change == "steps=double" else change for change in own]
    return [
        f"steps={settings.steps}",
        f"batch_size={settings.batch_size}",
        *common(own),
        *own,
        f"model={model}",
        f"output={output}",
        f"seed={run.seed}",
    ]


def digest(run: Run, settings: Settings, start_revision: str, knowledge_sha256: str) -> str:
    """Tells whether a result that is there is the result of this run, see `harness.digests.run_digest`.

    Args:
        run: The run.
        settings: Sizes.
        start_revision: Hash of the start model's folder.
        knowledge_sha256: Of the knowledge base, which training and held-out texts are made from.
    """
    row = run.row
    return run_digest(
        changes_of(run, settings, model="start", output="output") if row.is_trained else None,
        start_revision,
        measured={"budget": row.budget, "span": row.span, "system_prompt": row.system_prompt},
        settings=asdict(settings),
        seed=run.seed,
        knowledge=knowledge_sha256,
    )
