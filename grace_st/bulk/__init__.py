"""Encoding whole files: rows in, chunks on disk, one finished file out.

``readers`` turn a file into `rows`; ``job`` cuts them into `chunks`, has them encoded and keeps each in the
``partial_output``; ``writers`` make the final file of them. Only ``encoder`` knows models, and nothing here knows the
command line, but for the names of its options in messages.
"""

DEFAULT_CHUNK_SIZE = 4096
"""Texts handed to the encoder at once. The engine refills its slots from them, so many are fast."""
