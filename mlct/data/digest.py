"""Everything is named by its digest: sha256 over exact bytes, or over RFC 8785 canonical JSON."""

import hashlib
from typing import Any


def canonical(value: Any) -> bytes:
    """The one byte string of a JSON value (RFC 8785). Raises ValueError on NaN and infinities."""
    import rfc8785

    return rfc8785.dumps(value)


def sha256(data: bytes | memoryview) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value`."""
    return sha256(canonical(value))
