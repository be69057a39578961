"""Whether an embedding depends on its rationale: the same tasks with rationales that were changed on purpose."""
