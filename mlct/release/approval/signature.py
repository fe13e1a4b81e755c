"""SSH signatures (SSHSIG), made and verified in process.

Format: OpenSSH PROTOCOL.sshsig; wire types: RFC 4251 section 5; keys: RFC 4253, 5656, 8709 and
OpenSSH PROTOCOL.u2f for security keys. ed25519, ECDSA, RSA of 2048 bits and more, and their
security-key forms. Unlike `ssh-keygen -Y verify`, a security key must have been touched.
"""

import base64
import binascii
import hashlib
import struct
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
    "nistp256": (ec.SECP256R1(), hashes.SHA256()),
    "nistp384": (ec.SECP384R1(), hashes.SHA384()),
    "nistp521": (ec.SECP521R1(), hashes.SHA512()),
}
_RSA = {"rsa-sha2-256": hashes.SHA256(), "rsa-sha2-512": hashes.SHA512()}


def _invalid(found: str, expected: str = "an SSH signature made for mlct") -> ApprovalInvalid:
    return ApprovalInvalid(found, expected=expected, fix="Sign again with `mlct approve`")


class _Wire:
    """Reads RFC 4251 fields; every overrun is an invalid signature."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        if count > len(self.data):
            raise _invalid("the signature is cut short")
        head, self.data = self.data[:count], self.data[count:]
        return head

    def string(self) -> bytes:
        return self.take(struct.unpack(">I", self.take(4))[0])

    def text(self) -> str:
        try:
            return self.string().decode("ascii")
        except UnicodeDecodeError as error:
            raise _invalid("the signature holds a name that is not ASCII") from error

    def end(self) -> None:
        if self.data:
            raise _invalid("the signature has bytes after its end")


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An SSH public key by its wire bytes."""

    blob: bytes

    @classmethod
    def parse(cls, line: str) -> "PublicKey":
        """From an authorized_keys line, `type base64 [comment]`."""
        words = line.split()
        try:
            blob = base64.b64decode(words[1], validate=True)
        except (IndexError, binascii.Error) as error:
            raise ApprovalInvalid(
                f"{line[:40]!r} is not an SSH public key", expected="'ssh-ed25519 AAAA... comment'"
            ) from error
        if _Wire(blob).text() != words[0]:
            raise ApprovalInvalid(f"the key {line[:40]!r} is not of the type that it says")
        return cls(blob)

    @property
    def type(self) -> str:
        return _Wire(self.blob).text()

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as `ssh-keygen -l` prints it."""
        encoded = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return "SHA256:" + encoded.rstrip("=")


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


def _preimage(message: bytes, namespace: str, algorithm: str, reserved: bytes = b"") -> bytes:
    if algorithm not in ("sha256", "sha512"):
        raise _invalid(f"the signature hashes with {algorithm!r}", "sha256 or sha512")
    hashed = hashlib.new(algorithm, message).digest()
    fields = (namespace.encode(), reserved, algorithm.encode(), hashed)
    return _MAGIC + b"".join(map(_string, fields))


def verify(armored: str, message: bytes, *, namespace: str = NAMESPACE) -> PublicKey:
    """The key that signed `message` for `namespace`. Raises ApprovalInvalid.

    Says nothing about who holds the key: that is the approvers file's to answer.
    """
    parsed = Signature.parse(armored)
    if parsed.namespace != namespace:
        raise _invalid(f"the signature is for {parsed.namespace!r}", f"namespace {namespace!r}")
    signed = _preimage(message, namespace, parsed.hash_algorithm, parsed.reserved)
    wire = _Wire(parsed.value)
    scheme, value = wire.text(), wire.string()
    key = _Wire(parsed.key.blob)
    kind = key.text()
    try:
        if kind.startswith("sk-"):
            _verify_touched(kind, scheme, key, value, wire, signed)
        else:
            wire.end()
            _verify_plain(kind, scheme, key, value, signed)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise _invalid(
            f"the {kind} signature does not match", "a signature over these exact bytes"
        ) from error
    return parsed.key


def _verify_plain(kind: str, scheme: str, key: _Wire, value: bytes, signed: bytes) -> None:
    if kind == "ssh-ed25519" and scheme == kind:
        point = key.string()
        key.end()
        ed25519.Ed25519PublicKey.from_public_bytes(point).verify(value, signed)
    elif kind.startswith("ecdsa-sha2-") and scheme == kind:
        _verify_ecdsa(kind.removeprefix("ecdsa-sha2-"), key, value, signed)
        key.end()
    elif kind == "ssh-rsa" and scheme in _RSA:
        exponent, modulus = (int.from_bytes(key.string()) for _ in range(2))
        key.end()
        if modulus.bit_length() < 2048:
            raise _invalid(f"an RSA key of {modulus.bit_length()} bits", "2048 bits or more")
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if len(value) > (modulus.bit_length() + 7) // 8:
            raise InvalidSignature
        # ssh may leave out leading zeros of the number.
        value = value.rjust((modulus.bit_length() + 7) // 8, b"\0")
        public.verify(value, signed, padding.PKCS1v15(), _RSA[scheme])
    else:
        raise _invalid(
            f"a {scheme!r} signature by a {kind!r} key", "ed25519, ECDSA or RSA with SHA-2"
        )


def _verify_ecdsa(curve: str, key: _Wire, value: bytes, signed: bytes) -> None:
    if curve not in _CURVES or key.text() != curve:
        raise _invalid(f"an ECDSA key on {curve!r}", ", ".join(_CURVES))
    group, algorithm = _CURVES[curve]
    public = ec.EllipticCurvePublicKey.from_encoded_point(group, key.string())
    numbers = _Wire(value)
    r, s = int.from_bytes(numbers.string()), int.from_bytes(numbers.string())
    numbers.end()
    public.verify(utils.encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))


def _verify_touched(
    kind: str, scheme: str, key: _Wire, value: bytes, wire: _Wire, signed: bytes
) -> None:
    flags, counter = wire.take(1), wire.take(4)
    wire.end()
    if not flags[0] & 1:
        raise _invalid("the security key was not touched", "a signature confirmed by touch")

    def device(application: bytes) -> bytes:
        digests = (hashlib.sha256(part).digest() for part in (application, signed))
        first, second = digests
        return first + flags + counter + second

    if kind == "sk-ssh-ed25519@openssh.com" and scheme == kind:
        point, application = key.string(), key.string()
        key.end()
        ed25519.Ed25519PublicKey.from_public_bytes(point).verify(value, device(application))
    elif kind == "sk-ecdsa-sha2-nistp256@openssh.com" and scheme == kind:
        rest = _Wire(key.data)
        rest.string(), rest.string()
        application = rest.string()
        rest.end()
        _verify_ecdsa("nistp256", key, value, device(application))
    else:
        raise _invalid(f"a {scheme!r} signature by a {kind!r} key", "a security key's signature")


def _armor(blob: bytes) -> str:
    encoded = base64.b64encode(blob).decode()
    lines = [encoded[i : i + 70] for i in range(0, len(encoded), 70)]
    return "\n".join([_BEGIN, *lines, _END]) + "\n"


def sign(key: Path, message: bytes, *, namespace: str = NAMESPACE) -> str:
    """Armored signature of `message`.

    An unencrypted private key file is used in process; every other key (with a passphrase, in an
    agent by its `.pub` file, on a security key) through `ssh-keygen -Y sign`, which asks for it.
    """
    try:
        data = key.expanduser().read_bytes()
    except OSError as error:
        raise ApprovalInvalid(
            f"the key {key} cannot be read: {error.strerror}",
            expected="an SSH private key file",
            fix="Make one with `ssh-keygen -t ed25519`, or pass --key",
        ) from error
    try:
        private = serialization.load_ssh_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return _sign_elsewhere(key.expanduser(), message, namespace)
    signed = _preimage(message, namespace, "sha512")
    line = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    public = PublicKey.parse(line.decode())
    scheme, value = _sign_here(private, public, signed)
    fields = (public.blob, namespace.encode(), b"", b"sha512", _string(scheme) + _string(value))
    return _armor(_MAGIC + struct.pack(">I", 1) + b"".join(map(_string, fields)))


def _sign_here(private: Any, public: PublicKey, signed: bytes) -> tuple[bytes, bytes]:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return b"ssh-ed25519", private.sign(signed)
    if isinstance(private, rsa.RSAPrivateKey):
        return b"rsa-sha2-512", private.sign(signed, padding.PKCS1v15(), hashes.SHA512())
    if isinstance(private, ec.EllipticCurvePrivateKey):
        algorithm = _CURVES[public.type.removeprefix("ecdsa-sha2-")][1]
        pair = utils.decode_dss_signature(private.sign(signed, ec.ECDSA(algorithm)))
        numbers = (n.to_bytes(n.bit_length() // 8 + 1) for n in pair)
        return public.type.encode(), b"".join(map(_string, numbers))
    raise ApprovalInvalid(
        f"a {public.type!r} key cannot sign approvals", expected="ed25519, ECDSA or RSA"
    )


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
