"""Training for GRACE, and the recipe of the bundled demonstration model (``grace_train.nano``)."""
