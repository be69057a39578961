"""Encoding a corpus with many workers: files in, Parquet shards out.

``files`` lists the input and ``blocks`` reads and checks it; ``shards`` packs what was found into the shards of the
output; ``worker`` makes one, with a `StoreFolder` (``stores``) for what is generated; ``folder`` is the output while
it is made; ``job`` holds these together, and knows no cluster: ``cluster`` hands its work to Ray Data. ``costs`` and
``throughput`` say beforehand what it takes.
"""

DEFAULT_SHARD_ROWS = 16384
"""Rows of an output file. What is generated for one that is not finished is in the store, so it may take hours."""
