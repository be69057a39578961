"""General ability, in percent: the paper's six tasks, or, in smoke runs, two stand-ins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from grace_eval.general import suites
from grace_eval.reproduce.measures.base import Measure, Subject


@dataclass(frozen=True, kw_only=True)
class General(Measure):
    """Scores of general tasks, by lm-evaluation-harness.

    Attributes:
        suite: The paper's tasks, or stand-ins on the bundled model's own texts.
        limit: Most rows of each task; None is all.
    """

    kind = "general"

    suite: Literal["paper", "stand-in"]
    limit: int | None = None

    def measure(self, subject: Subject) -> dict[str, Any]:
        """See `Measure`."""
        import grace_st
        from grace_eval.general.harness import evaluate

        if self.suite == suites.STAND_IN:
            tasks = suites.stand_in_tasks(subject.work / "stand-ins")
            message = grace_st.DEFAULT_SYSTEM_PROMPT
            found = evaluate(
                subject.source, tasks, device=subject.device, system_message=message, limit=self.limit, batch_size=16
            )
            metrics = zip(suites.STAND_INS.items(), tasks, strict=True)
            columns = {label: 100 * float(found[task["task"]][metric]) for (label, metric), task in metrics}
        else:
            names = [task.task for task in suites.PAPER]
            found = evaluate(subject.source, names, device=subject.device, limit=self.limit)
            columns = {task.label: 100 * float(found[task.task][task.metric]) for task in suites.PAPER}
        return {"columns": columns, "average": sum(columns.values()) / len(columns)}

    def check(self, what: str) -> None:
        """See `Measure`."""
        from grace_eval.general.harness import check_code, check_data, check_harness

        check_harness()
        if self.suite == "paper":
            check_code(suites.PAPER, what)
            check_data(suites.PAPER, what)

    def command(self, folder: str, options: str, data: str) -> str | None:
        """See `Measure`."""
        if self.suite == suites.STAND_IN:
            return None
        tasks = ",".join(task.task for task in suites.PAPER)
        return (
            f"lm-eval run --model hf --model_args pretrained={folder} --tasks {tasks} --include_path "
            f"{suites.TASK_FOLDER} --apply_chat_template --confirm_run_unsafe_code"
        )
