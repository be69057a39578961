"""General ability of a model, before and after training: the tasks of the paper's Table 5, by lm-evaluation-harness."""
