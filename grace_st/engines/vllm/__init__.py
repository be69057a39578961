"""The vLLM engine: vLLM generates, and its worker pools the hidden states of the same pass.

`engine.py` is what the rest of the package sees. vLLM itself runs in a process of its own (`host.py`), which
`session.py` starts, asks and ends through `process.py`; `worker.py` and `sums.py` are loaded into vLLM's workers. Only
`host.py` and the workers import vLLM.
"""
