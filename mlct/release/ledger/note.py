"""Signed notes (c2sp.org/signed-note): a text and Ed25519 signatures below it.

Keys are OpenSSH's: an unencrypted ed25519 private key file signs. Public keys are verifier keys,
`NAME+ID+KEY`, or `ssh-ed25519 ...` lines to which the reader gives a name.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mlct.errors import LedgerError

_ED25519 = b"\1"
#: Of a ledger and its key, unless they get another.
NAME = "mlct-ledger"
_NAME = re.compile(r"[^\s+]+")
_TEXT = re.compile(r"(?:[^\x00-\x1f]*\n)+")
_LINE = re.compile(r"— (\S+) ([0-9A-Za-z+/]+=*)")
_LONGEST = 1_000_000


def _refused(found: str, expected: str = "a signed note of mlct, unchanged") -> LedgerError:
    return LedgerError(
        found,
        expected=expected,
        fix="Trust nothing that it says: find out who can write where it is kept",
    )


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key and the name it signs under."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LedgerError(
                f"a key named {self.name!r}", expected="a name without spaces and plus signs"
            )

    @classmethod
    def parse(cls, text: str, *, name: str = NAME) -> "Verifier":
        """From `NAME+ID+KEY`, or from an `ssh-ed25519` line that gets `name`."""
        words = text.split()
        try:
            if words[:1] == ["ssh-ed25519"]:
                key = s.load_ssh_public_key(" ".join(words[:2]).encode())
                return cls(name, key.public_bytes(s.Encoding.Raw, s.PublicFormat.Raw))
            (line,) = words
            said, _, encoded = line.split("+", 2)
            blob = base64.b64decode(encoded)  # other spellings show below
            Ed25519PublicKey.from_public_bytes(blob[1:])
            found = cls(said, blob[1:])
            if str(found) == line:
                return found
        except (ValueError, UnsupportedAlgorithm):
            pass
        raise LedgerError(
            f"{text[:60]!r} is no verifier key",
            expected="NAME+ID+KEY as `mlct checkpoint` prints it, or a line 'ssh-ed25519 AAAA...'",
            fix="Give the public half of the key that signs the checkpoints",
        )

    @property
    def id(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        named = self.name.encode() + b"\n" + _ED25519 + self.key
        return hashlib.sha256(named).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.key).decode()}"

    def open(self, note: bytes) -> str:
        """The text of a note, without its signatures. Raises LedgerError unless this key signed.

        Signatures of other keys are ignored, as the specification has it.
        """
        try:
            text, parted, below = note.decode().rpartition("\n\n")
        except UnicodeDecodeError as error:
            raise _refused("the note is not UTF-8") from error
        text += "\n"
        lines = below.split("\n")
        signatures = [_LINE.fullmatch(line) for line in lines[:-1]]
        whole = len(note) <= _LONGEST and _TEXT.fullmatch(text) and parted and signatures
        if not whole or lines[-1] or None in signatures:
            raise _refused(f"{note[:60]!r} is no signed note")
        counted = 0
        for name, encoded in (match.groups() for match in signatures if match):
            try:
                blob = base64.b64decode(encoded)
            except ValueError as error:
                raise _refused("a signature of the note is not base64") from error
            # Bits that base64 leaves over could be changed unseen.
            if len(blob) < 5 or base64.b64encode(blob).decode() != encoded:
                raise _refused("a signature of the note is not base64 in its one form")
            if (name, blob[:4]) != (self.name, self.id):
                continue
            try:
                Ed25519PublicKey.from_public_bytes(self.key).verify(blob[4:], text.encode())
            except InvalidSignature as error:
                raise _refused(f"the signature of {self.name} does not match the note") from error
            counted += 1
        if not counted:
            raise _refused("the note is not signed by the key", f"a signature of {self}")
        return text


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and the name it signs under. It is never shown."""

    verifier: Verifier
    _key: Ed25519PrivateKey

    @classmethod
    def load(cls, path: Path, *, name: str = NAME) -> "Signer":
        """From an OpenSSH private key file without a passphrase. Raises LedgerError."""
        try:
            key = s.load_ssh_private_key(path.expanduser().read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no open OpenSSH key"
            raise cls._unusable(path, str(why)) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise cls._unusable(path, "it is of another type")
        return cls.of(key, name=name)

    @classmethod
    def of(cls, key: Ed25519PrivateKey, *, name: str = NAME) -> "Signer":
        public = key.public_key().public_bytes(s.Encoding.Raw, s.PublicFormat.Raw)
        return cls(Verifier(name, public), key)

    @staticmethod
    def _unusable(path: Path, why: str) -> LedgerError:
        return LedgerError(
            f"the key {path} cannot sign: {why}",
            expected="an ed25519 private key file without a passphrase",
            fix="Make one for the checkpoints alone: ssh-keygen -t ed25519 -N '' -f FILE",
        )

    def __repr__(self) -> str:
        return f"Signer({self.verifier})"

    def sign(self, text: str) -> bytes:
        """The note: `text`, which ends a line, and the signature below it."""
        if not _TEXT.fullmatch(text):
            raise LedgerError(f"{text[:60]!r} cannot be signed", expected="lines of text")
        blob = self.verifier.id + self._key.sign(text.encode())
        return f"{text}\n— {self.verifier.name} {base64.b64encode(blob).decode()}\n".encode()
