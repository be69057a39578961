"""Why vLLM failed, in one line: from an error, or from what its processes wrote before they ended."""

from __future__ import annotations

import re
import signal

_ERROR = re.compile(r"(?:^|\s)((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)): (?P<said>\S.*)$")
_NOISE = re.compile(r"\d+ validation errors? for \w+ (Value error, )?")
_LISTS = re.compile(r" (Supported architectures|Must be one of):? .*$")  # hundreds of names
_LONGEST = 300
_EMPTY = ("Engine core initialization failed", "Engine core proc", "EngineCore encountered an issue", "WorkerProc")
# What vLLM says, and what one can do about it here.
_ADVICE = (
    (
        r"less than desired GPU memory utilization|No available memory for the cache|out of memory|"
        r"is less than requested memory|OutOfMemoryError|Cannot allocate memory|can't allocate memory|"
        r"Unable to allocate",
        "too little memory: free some, or change the engine options gpu_memory_utilization (on a GPU) or "
        "cpu_cache_gib (on a CPU), or lower max_model_len",
    ),
    (
        r"KV cache is needed|max seq len .* is larger than|maximum number of tokens that can be stored",
        "too little memory for one text of full length: lower the engine option max_model_len, or raise "
        "gpu_memory_utilization (on a GPU) or cpu_cache_gib (on a CPU)",
    ),
    (
        r"[Mm]odel architectures? .* (not supported|failed to be inspected)|no vLLM implementation|"
        r"not supported for now",
        "vLLM does not know this model: use engine='torch', or a newer vLLM",
    ),
    (
        r"[Hh]ead.?(size|dim)\w* .*(not supported|must be)|not supported head|attention configuration: head_dim",
        "vLLM has no attention for this model's head size on this machine: use engine='torch'",
    ),
    (r"No CUDA GPUs are available|Failed to infer device type", "vLLM finds no GPU that it was built for"),
)


def with_advice(said: str) -> str:
    """One line: what was said, and what to do about it where that is known."""
    line = _NOISE.sub("", " ".join(said.split()))
    line = _LISTS.sub("", line)
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]}..."
    for pattern, advice in _ADVICE:
        if re.search(pattern, said, flags=re.DOTALL):
            return f"{line} ({advice})"
    return line


def of_message(said: str, log: str) -> str:
    """The cause in an error's message; of one that only says that another process failed, what that process wrote."""
    if any(marker in said for marker in _EMPTY):
        return of_log(log) or with_advice(said)
    return with_advice(said)


def of_log(log: str) -> str | None:
    """The last error in what was written that tells a cause; None where there is none."""
    found = None
    for line in log.splitlines():
        match = _ERROR.search(line)
        if match and not any(marker in line for marker in _EMPTY):
            found = f"{match.group(1).rsplit('.', 1)[-1]}: {match.group('said')}"
    return None if found is None else with_advice(found)


def of_exit(code: int, log: str) -> str:
    """The cause of the end of a process, from its exit code and what it wrote."""
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL), as a system does that runs out of memory: free some, or lower cpu_cache_gib"
    said = of_log(log)
    if said is not None:
        return said
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    last = log.strip().splitlines()
    return f"it ended with exit code {code}" + (f": {' '.join(last[-1].split())[:300]}" if last else "")
