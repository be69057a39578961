"""Encoding a corpus with many workers: files in, Parquet shards out.

``files`` lists the input and ``blocks`` reads and checks it; ``shards`` packs what was found into the shards of the
output; ``plan`` is what a run does, written down; ``worker`` makes a shard, with a `StoreFolder` (``stores``) for what
is generated, and ``reports`` what it made; ``folder`` is the output while it is made, in files that are whole or not
there (``writing``); ``job`` holds these together, and knows no cluster: ``cluster`` hands its work to Ray Data.
``costs`` and ``throughput`` say beforehand what it takes.
"""

DEFAULT_SHARD_ROWS = 16384
"""Rows of an output file. What is generated for one that is not finished is in the store, so it may take hours."""
