"""Loader stub of a GRACE model folder: the code itself is the package grace-st."""

try:
    from grace_st.module import GenerateThenPool
except ImportError as error:
    raise ImportError(
        "This model writes a rationale before it embeds, which needs the package grace-st: pip install grace-st"
    ) from error

__all__ = ["GenerateThenPool"]
