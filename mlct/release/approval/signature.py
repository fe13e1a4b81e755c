"""SSH signatures (SSHSIG), made and verified in process.

Format: OpenSSH PROTOCOL.sshsig; wire types: RFC 4251 section 5; keys: RFC 4253, 5656, 8709 and
OpenSSH PROTOCOL.u2f for security keys. ed25519, ECDSA, RSA of 2048 bits and more, and their
security-key forms. Unlike `ssh-keygen -Y verify`, a security key must have been touched.
"""

import base64
import binascii
import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from mlct.errors import ApprovalInvalid

NAMESPACE = "mlct-approval@v1"
_MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "ecdsa-sha2-nistp256": (ec.SECP256R1(), hashes.SHA256()),
    "ecdsa-sha2-nistp384": (ec.SECP384R1(), hashes.SHA384()),
    "ecdsa-sha2-nistp521": (ec.SECP521R1(), hashes.SHA512()),
}
_RSA = {"rsa-sha2-256": hashes.SHA256(), "rsa-sha2-512": hashes.SHA512()}
_TOUCHED = {
    "sk-ssh-ed25519@openssh.com": "ssh-ed25519",
    "sk-ecdsa-sha2-nistp256@openssh.com": "ecdsa-sha2-nistp256",
}
_PRIVATE = b"-----BEGIN OPENSSH PRIVATE KEY-----", b"-----END OPENSSH PRIVATE KEY-----"


def _invalid(found: str, expected: str = "an SSH signature made for mlct") -> ApprovalInvalid:
    return ApprovalInvalid(found, expected=expected, fix="Sign again with `mlct`")


class _Wire:
    """Reads RFC 4251 fields; every overrun is invalid."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        if count > len(self.data):
            raise _invalid("the bytes are cut short")
        head, self.data = self.data[:count], self.data[count:]
        return head

    def string(self) -> bytes:
        return self.take(int.from_bytes(self.take(4)))

    def text(self) -> str:
        try:
            return self.string().decode("ascii")
        except UnicodeDecodeError as error:
            raise _invalid("a name is not ASCII") from error

    def number(self) -> int:
        found = self.string()
        if found[:1] >= b"\x80" or len(found) > 2049:
            raise _invalid("a number is negative or too long")
        return int.from_bytes(found)

    def end(self) -> None:
        if self.data:
            raise _invalid("bytes follow the end")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


def _number(value: int) -> bytes:
    return _string(value.to_bytes(value.bit_length() // 8 + 1) if value else b"")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An SSH public key by its wire bytes."""

    blob: bytes

    @classmethod
    def parse(cls, line: str) -> "PublicKey":
        """From an authorized_keys line, `type base64 [comment]`. Raises ApprovalInvalid."""
        words = line.split()
        try:
            key = cls(base64.b64decode(words[1], validate=True))
        except (IndexError, ValueError) as error:
            raise ApprovalInvalid(
                f"{line[:40]!r} is not an SSH public key", expected="'ssh-ed25519 AAAA... comment'"
            ) from error
        if (kind := _read(key.blob)[0]) != words[0]:
            raise ApprovalInvalid(
                f"the key {line[:40]!r} is not of the type that it says", expected=kind
            )
        return key

    @property
    def type(self) -> str:
        return _Wire(self.blob).text()

    @property
    def touched(self) -> bool:
        """Whether it is a security key, whose signatures count only when confirmed by touch."""
        return self.type in _TOUCHED

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as `ssh-keygen -l` prints it."""
        encoded = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return "SHA256:" + encoded.rstrip("=")


def _read(blob: bytes) -> tuple[str, Any, bytes | None]:
    """Type, key and, for a security key, application. One key has one blob: others are refused."""
    wire = _Wire(blob)
    kind = wire.text()
    plain = _TOUCHED.get(kind, kind)
    key: Any
    try:
        if plain == "ssh-ed25519":
            key = ed25519.Ed25519PublicKey.from_public_bytes(wire.string())
        elif plain in _CURVES:
            curve, point = wire.text(), wire.string()
            if plain != f"ecdsa-sha2-{curve}" or point[:1] != b"\4":
                raise _invalid(f"the {plain} key is a compressed point or one on {curve!r}")
            key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[plain][0], point)
        elif plain == "ssh-rsa":
            exponent, modulus = wire.number(), wire.number()
            if modulus.bit_length() < 2048:
                raise _invalid(f"an RSA key of {modulus.bit_length()} bits", "2048 bits or more")
            if blob != b"".join((_string(b"ssh-rsa"), _number(exponent), _number(modulus))):
                raise _invalid("the RSA key's numbers are not in their shortest form")
            key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        else:
            raise _invalid(f"a key of type {kind!r}", "ed25519, ECDSA or RSA")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _invalid(f"the {kind} key is not valid", "a key made by ssh-keygen") from error
    application = wire.string() if kind in _TOUCHED else None
    wire.end()
    return kind, key, application


@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed, not yet verified, SSHSIG."""

    key: PublicKey
    namespace: str
    reserved: bytes
    hash_algorithm: str
    value: bytes

    @classmethod
    def parse(cls, armored: str) -> "Signature":
        """From the armored text. Raises ApprovalInvalid."""
        lines = armored.strip().splitlines()
        if len(lines) < 3 or lines[0].strip() != _BEGIN or lines[-1].strip() != _END:
            raise _invalid("the text is not an armored SSH signature")
        try:
            data = base64.b64decode("".join(x.strip() for x in lines[1:-1]), validate=True)
        except (binascii.Error, ValueError) as error:
            raise _invalid("the signature is not base64") from error
        wire = _Wire(data)
        if wire.take(6) != _MAGIC or wire.take(4) != b"\0\0\0\1":
            raise _invalid("the signature is not SSHSIG version 1")
        parsed = cls(
            PublicKey(wire.string()), wire.text(), wire.string(), wire.text(), wire.string()
        )
        wire.end()
        return parsed


def _preimage(message: bytes, namespace: str, algorithm: str) -> bytes:
    if algorithm not in ("sha256", "sha512"):
        raise _invalid(f"the signature hashes with {algorithm!r}", "sha256 or sha512")
    hashed = hashlib.new(algorithm, message).digest()
    # The second field is reserved: empty when signed, ignored when read.
    return _MAGIC + b"".join(map(_string, (namespace.encode(), b"", algorithm.encode(), hashed)))


def verify(armored: str, message: bytes, *, namespace: str = NAMESPACE) -> PublicKey:
    """The key that signed `message` for `namespace`. Raises ApprovalInvalid.

    Says nothing about who holds the key: that is the approvers file's to answer.
    """
    parsed = Signature.parse(armored)
    if parsed.namespace != namespace:
        raise _invalid(f"the signature is for {parsed.namespace!r}", f"namespace {namespace!r}")
    signed = _preimage(message, namespace, parsed.hash_algorithm)
    kind, key, application = _read(parsed.key.blob)
    wire = _Wire(parsed.value)
    scheme, value = wire.text(), wire.string()
    if application is not None:
        flags, counter = wire.take(1), wire.take(4)
        if not flags[0] & 1:
            raise _invalid("the security key was not touched", "a signature confirmed by touch")
        first, last = (hashlib.sha256(part).digest() for part in (application, signed))
        signed = first + flags + counter + last
    wire.end()
    if scheme not in (_RSA if kind == "ssh-rsa" else {kind}):
        raise _invalid(f"a {scheme!r} signature by a {kind!r} key", "the key's own, with SHA-2")
    try:
        _match(key, scheme, value, signed)
    except InvalidSignature as error:
        raise _invalid(
            f"the {kind} signature does not match", "a signature over these exact bytes"
        ) from error
    return parsed.key


def _match(key: Any, scheme: str, value: bytes, signed: bytes) -> None:
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(value, signed)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        numbers = _Wire(value)
        pair = utils.encode_dss_signature(numbers.number(), numbers.number())
        numbers.end()
        key.verify(pair, signed, ec.ECDSA(_CURVES[_TOUCHED.get(scheme, scheme)][1]))
    else:
        size = (key.key_size + 7) // 8
        # ssh may leave out leading zeros of the number.
        key.verify(value.rjust(size, b"\0"), signed, padding.PKCS1v15(), _RSA[scheme])


def _armor(blob: bytes) -> str:
    encoded = base64.b64encode(blob).decode()
    lines = [encoded[i : i + 70] for i in range(0, len(encoded), 70)]
    return "\n".join([_BEGIN, *lines, _END]) + "\n"


def _content(key: Path) -> bytes:
    try:
        return key.expanduser().read_bytes()
    except OSError as error:
        raise ApprovalInvalid(
            f"the key {key} cannot be read: {error.strerror}",
            expected="an SSH private key file",
            fix="Make one with `ssh-keygen -t ed25519`, or pass --key",
        ) from error


def public_key(key: Path) -> PublicKey:
    """The public half of a private key file, without its passphrase; or of a `.pub` file."""
    data = _content(key)
    begin, end = _PRIVATE
    if begin in data:
        try:
            blob = base64.b64decode(data.partition(begin)[2].partition(end)[0])
        except binascii.Error as error:
            raise ApprovalInvalid(f"the key {key} is not base64") from error
        wire = _Wire(blob.removeprefix(b"openssh-key-v1\0"))
        wire.string(), wire.string(), wire.string(), wire.take(4)  # cipher, derivation, count
        found = PublicKey(wire.string())
        _read(found.blob)
        return found
    if data.startswith(b"-----"):  # an older format hides it: ssh looks beside it too
        data = _content(key.with_name(f"{key.name}.pub"))
    return PublicKey.parse(data.decode(errors="replace"))


def sign(key: Path, message: bytes, *, namespace: str = NAMESPACE) -> str:
    """Armored signature of `message` by `public_key(key)`, verified. Raises ApprovalInvalid.

    An unencrypted private key file is used in process; every other key (with a passphrase, in an
    agent by its `.pub` file, on a security key) through `ssh-keygen -Y sign`, which asks for it.
    """
    public = public_key(key)
    try:
        private = serialization.load_ssh_private_key(_content(key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        signed = _sign_elsewhere(key.expanduser(), message, namespace)
    else:
        signed = _sign_here(private, public, message, namespace)
    if verify(signed, message, namespace=namespace) != public:
        raise ApprovalInvalid(
            f"{key} signed with another key than its public half says",
            expected=public.fingerprint,
            fix="Remove the `.pub` file beside it, which belongs to another key",
        )
    return signed


def _sign_here(private: Any, public: PublicKey, message: bytes, namespace: str) -> str:
    scheme, value = _value(private, public, _preimage(message, namespace, "sha512"))
    fields = (public.blob, namespace.encode(), b"", b"sha512", _string(scheme) + _string(value))
    return _armor(_MAGIC + b"\0\0\0\1" + b"".join(map(_string, fields)))


def _value(private: Any, public: PublicKey, signed: bytes) -> tuple[bytes, bytes]:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return b"ssh-ed25519", private.sign(signed)
    if isinstance(private, rsa.RSAPrivateKey):
        return b"rsa-sha2-512", private.sign(signed, padding.PKCS1v15(), hashes.SHA512())
    algorithm = _CURVES[public.type][1]
    pair = utils.decode_dss_signature(private.sign(signed, ec.ECDSA(algorithm)))
    return public.type.encode(), b"".join(map(_number, pair))


def _sign_elsewhere(key: Path, message: bytes, namespace: str) -> str:
    try:
        done = subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", namespace],
            input=message,
            stdout=subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise ApprovalInvalid(
            f"the key {key} needs ssh-keygen, which is not installed",
            expected="OpenSSH for keys with a passphrase, agents and security keys",
            fix="Install OpenSSH's client, or use an unencrypted key file",
        ) from error
    if done.returncode:
        raise ApprovalInvalid(
            f"ssh-keygen could not sign with {key}",
            expected="an SSH key that this user may use",
            fix="See what ssh-keygen printed above",
        )
    return done.stdout.decode()
