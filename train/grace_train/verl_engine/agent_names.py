"""A name that both the driver and verl's processes need, without importing verl."""

AGENT_LOOP = "grace_rollouts"
