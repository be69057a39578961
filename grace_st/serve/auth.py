"""API keys: who may use the server."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from grace_st.serve.errors import InvalidKeyError

ENVIRONMENT = "GRACE_ST_API_KEY"


class ApiKeys:
    """The keys that are accepted; without any, everybody is.

    Only their hashes are kept. A comparison takes the same time whatever is wrong with a key, and all are compared.

    Args:
        keys: The keys.

    Raises:
        ValueError: A key is empty or has characters that no header can hold.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        hashes = []
        for number, key in enumerate(keys, start=1):
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(
                    f"API key {number} must be of printable ASCII characters without spaces, and not empty; make one "
                    'with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
                )
            hashes.append(_hash(key))
        self._hashes = tuple(hashes)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    @classmethod
    def from_file(cls, path: Path) -> ApiKeys:
        """One key a line; blank lines and those that begin with ``#`` are skipped.

        Raises:
            ValueError: There is none in the file, or one is refused.
            OSError: The file cannot be read.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text file of API keys, one a line ({error})") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ValueError(f"there is no API key in {path}: write one on each line, or leave the option out")
        return cls(keys)

    def check(self, authorization: str | None) -> None:
        """Refuse a request whose ``Authorization`` header holds none of the keys.

        Raises:
            InvalidKeyError: It does not.
        """
        if not self._hashes:
            return
        scheme, _, key = (authorization or "").partition(" ")
        given = _hash(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        if scheme.lower() != "bearer" or not any(matches):
            problem = "the API key is wrong" if authorization else "no API key was given"
            raise InvalidKeyError(f"{problem}: send one as the header `Authorization: Bearer KEY`")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
