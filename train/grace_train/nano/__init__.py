"""The recipe of grace-nano, the bundled demonstration model, from knowledge to evaluation.

``python -m grace_train.nano --output DIR`` runs the whole of it. grace-nano demonstrates generate-then-pool
on a laptop; it is not a useful embedder.
"""
