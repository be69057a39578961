"""Training data: read, checked, kept on disk, and drawn as batches without false negatives.

``readers`` turn a file, a folder or a data set of the hub into records; ``instances`` make rows of them; ``prepare``
writes the rows into a `store`, which is memory-mapped; ``batches`` draws from it. Knows texts, not tokens or models.
"""
