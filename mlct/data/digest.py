"""Everything is named by its digest: sha256 over exact bytes, or over RFC 8785 canonical JSON."""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

_EXACT = 2**53  # JSON numbers are doubles: larger integers have no form of their own


def canonical(value: Any) -> bytes:
    """The one byte string of a JSON value (RFC 8785). Raises ValueError on anything else.

    `json.loads` of these bytes has the same canonical bytes.
    """
    import rfc8785

    return rfc8785.dumps(_read_back(value))


def _read_back(value: Any) -> Any:
    """`value` with the integers that are doubles written in full (1e16) as the doubles they are."""
    match value:
        case dict():
            return {key: _read_back(item) for key, item in value.items()}
        case list() | tuple():
            return [_read_back(item) for item in value]
        case int() if _EXACT <= abs(value) < 10**21 and canonical(float(value)) == b"%d" % value:
            return float(value)
    return value


def sha256(data: bytes | memoryview) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value`."""
    return sha256(canonical(value))


def plain(value: Any, other: Callable[[Any], Any] = str) -> Any:
    """`value` as JSON that has a canonical form, the same in every process.

    Sets are sorted; numbers that JSON does not know (NaN, infinities, integers beyond 2^53) become
    text; `other` gives the plain form of what is not JSON at all.
    """
    match value:
        case None | str() | bool():
            return value
        case int() if abs(value) < _EXACT:
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case int() | float():
            return str(value)
        case Mapping():
            return {str(k): plain(v, other) for k, v in value.items()}
        case list() | tuple():
            return [plain(v, other) for v in value]
        case set() | frozenset():
            return sorted((plain(v, other) for v in value), key=digest)
    return other(value)
