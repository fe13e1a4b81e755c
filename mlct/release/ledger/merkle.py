"""The Merkle tree of RFC 6962, section 2.1, over SHA-256."""

from hashlib import sha256


class Tree:
    """Grows leaf by leaf, and keeps one hash for each power of two in its size."""

    def __init__(self) -> None:
        self.size, self._whole = 0, list[bytes]()

    def append(self, leaf: bytes) -> None:
        found, size = sha256(b"\0" + leaf).digest(), self.size
        while size & 1:  # two whole trees of one size make one of the next
            found, size = _node(self._whole.pop(), found), size >> 1
        self._whole.append(found)
        self.size += 1

    def root(self) -> bytes:
        """32 bytes that no other leaves, or order of them, have."""
        if not self._whole:
            return sha256().digest()
        found = self._whole[-1]
        for left in reversed(self._whole[:-1]):
            found = _node(left, found)
        return found


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
