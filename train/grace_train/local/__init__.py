"""Training in one process: rollouts, rewards, updates, checkpoints. On a CPU or one GPU."""
