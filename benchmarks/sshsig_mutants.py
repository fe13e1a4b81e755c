"""Do we and `ssh-keygen -Y verify` agree on damaged signatures? Prints every disagreement.

Signatures of every kind of key are damaged at random: flipped bits, cuts, swapped, grafted,
repeated fields, other names, messages and namespaces. Both verifiers judge each. Security keys are
played by software, always touched: without touch ssh-keygen accepts and we refuse, on purpose.
Run from the root of the repository, with OpenSSH installed:

    python -m benchmarks.sshsig_mutants [COUNT [SEED]]
"""

import base64
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mlct.errors import ApprovalInvalid
from mlct.release.approval.signature import NAMESPACE, PublicKey, verify

HEAD = b"SSHSIG\0\0\0\1"
KINDS = ("ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-3072")
SECURITY_KINDS = ("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com")
NAMES = b"sha256 sha512 sha1 SHA512 ssh-rsa rsa-sha2-256 ssh-ed25519 nistp256 git mlct".split()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One signature and what it is verified against. `public` is an authorized_keys line."""

    kind: str
    public: str
    blob: bytes
    message: bytes
    namespace: str = NAMESPACE
    damage: str = "none"

    @property
    def armored(self) -> str:
        return armored(self.blob)


def armored(blob: bytes) -> str:
    """As ssh-keygen writes it."""
    text = base64.encodebytes(blob).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{text}-----END SSH SIGNATURE-----\n"


def dearmored(text: str) -> bytes:
    return base64.b64decode("".join(text.strip().splitlines()[1:-1]))


def pack(*fields: bytes) -> bytes:
    """RFC 4251 strings."""
    return b"".join(len(field).to_bytes(4) + field for field in fields)


def unpack(data: bytes) -> list[bytes]:
    """RFC 4251 strings; what follows the last whole one is the last element."""
    fields = []
    while len(data) >= 4 and (size := int.from_bytes(data[:4])) <= len(data) - 4:
        fields.append(data[4 : 4 + size])
        data = data[4 + size :]
    return [*fields, data]


def signed_by_ssh(folder: Path, kind: str, message: bytes) -> Case:
    """A new key of `kind`, such as "rsa-2048", and its signature by `ssh-keygen -Y sign`."""
    key = folder / kind
    if not key.exists():
        name, _, bits = kind.partition("-")
        size = ["-b", bits] if bits else []
        make = ["ssh-keygen", "-q", "-t", name, *size, "-N", "", "-C", "", "-f", str(key)]
        subprocess.run(make, check=True)
    run = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE]
    done = subprocess.run(run, input=message, capture_output=True, check=True)
    public = key.with_suffix(".pub").read_text().strip()
    return Case(kind=kind, public=public, blob=dearmored(done.stdout.decode()), message=message)


def security_key(kind: str) -> Callable[..., Case]:
    """A security key in software (OpenSSH PROTOCOL.u2f): `sign(message, flags=1)`.

    Bit 0 of `flags` says that it was touched.
    """
    application, form = b"ssh:", (Encoding.X962, PublicFormat.UncompressedPoint)
    edwards, pair = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    if "ed25519" in kind:
        point = edwards.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        key = pack(kind.encode(), point, application)
    else:
        point = pair.public_key().public_bytes(*form)
        key = pack(kind.encode(), b"nistp256", point, application)
    public = f"{kind} {base64.b64encode(key).decode()}"

    def sign(message: bytes, *, flags: int = 1) -> Case:
        hashed = hashlib.sha512(message).digest()
        signed = b"SSHSIG" + pack(NAMESPACE.encode(), b"", b"sha512", hashed)
        said = bytes([flags]) + (7).to_bytes(4)
        both = [hashlib.sha256(part).digest() for part in (application, signed)]
        device = both[0] + said + both[1]
        if "ed25519" in kind:
            value = edwards.sign(device)
        else:
            numbers = utils.decode_dss_signature(pair.sign(device, ec.ECDSA(hashes.SHA256())))
            value = pack(*(n.to_bytes(n.bit_length() // 8 + 1) for n in numbers))
        fields = (key, NAMESPACE.encode(), b"", b"sha512", pack(kind.encode(), value) + said)
        return Case(kind=kind, public=public, blob=HEAD + pack(*fields), message=message)

    return sign


def signed_by_security_key(kind: str, message: bytes, *, flags: int = 1) -> Case:
    """What a new security key would sign."""
    return security_key(kind)(message, flags=flags)


def accepted_by_us(case: Case) -> bool:
    try:
        key = verify(case.armored, case.message, namespace=case.namespace)
    except ApprovalInvalid:
        return False
    return key == PublicKey.parse(case.public)


def accepted_by_ssh(case: Case, folder: Path) -> bool:
    allowed, signature = folder / "allowed", folder / "signature"
    allowed.write_text(f"person {case.public}\n")
    signature.write_text(case.armored)
    run = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", "person", "-n", case.namespace]
    done = subprocess.run(
        [*run, "-s", str(signature)], input=case.message, capture_output=True, check=False
    )
    return done.returncode == 0


def _flip(random: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(random: random.Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data))]


def _insert(random: random.Random, data: bytes) -> bytes:
    place = random.choice((len(data), random.randrange(len(data) + 1)))
    return data[:place] + random.randbytes(random.choice((1, 4, 32))) + data[place:]


def _drop(random: random.Random, data: bytes) -> bytes:
    place = random.randrange(len(data))
    return data[:place] + data[place + random.choice((1, 4, 32)) :]


BYTES = (_flip, _flip, _flip, _cut, _insert, _drop)


def _fields(random: random.Random, fields: list[bytes], others: list[bytes]) -> list[bytes]:
    """Swap, repeat, drop, graft, rename, fill or damage one of some fields."""
    fields, place = list(fields), random.randrange(len(fields))
    match random.randrange(7):
        case 0:
            other = random.randrange(len(fields))
            fields[place], fields[other] = fields[other], fields[place]
        case 1:
            fields.insert(place, fields[place])
        case 2:
            del fields[place]
        case 3:
            fields[place] = random.choice(others)
        case 4:
            fields[place] = random.choice(NAMES)
        case 5:
            fields[place] = random.randbytes(random.choice((0, 1, 32)))
        case _:
            fields[place] = random.choice(BYTES)(random, fields[place] or b"\0")
    return fields


def _outer(random: random.Random, blob: bytes, other: bytes) -> bytes:
    """Damage among key, namespace, reserved, hash and value."""
    return HEAD + pack(*_fields(random, unpack(blob[10:])[:5], unpack(other[10:])[:5]))


def _inner(random: random.Random, blob: bytes, other: bytes) -> bytes:
    """Damage inside the key or the value, all lengths repaired."""
    fields, place = unpack(blob[10:])[:5], random.choice((0, 4, 4))
    *parts, rest = unpack(fields[place])
    *others, _ = unpack(unpack(other[10:])[place])
    if place == 4 and parts[0].startswith((b"ecdsa", b"sk-ecdsa")) and random.random() < 0.5:
        numbers = _fields(random, unpack(parts[1])[:2], unpack(parts[1])[:2])
        parts[1] = pack(*numbers)
    else:
        parts = _fields(random, parts, others)
    fields[place] = pack(*parts) + rest
    return HEAD + pack(*fields)


def _bytes(random: random.Random, blob: bytes, other: bytes) -> bytes:
    return random.choice(BYTES)(random, blob)


def mutants(cases: list[Case], count: int, *, seed: int = 0) -> Iterator[Case]:
    """`count` damaged signatures, always the same ones for the same cases and seed."""
    chance = random.Random(seed)
    ways: list[Callable[[random.Random, bytes, bytes], bytes]] = [_bytes, _outer, _inner]
    for number in range(count):
        case = cases[number % len(cases)]
        way = chance.choice([*ways, *ways, "message", "namespace"])
        if way == "message":
            changed = chance.choice(BYTES)(chance, case.message)
            yield replace(case, message=changed, damage="message")
        elif way == "namespace":
            named = chance.choice(("git", "file", NAMESPACE + "x", NAMESPACE[:-1], "x" * 200))
            yield replace(case, namespace=named, damage="namespace")
        elif callable(way):
            blob = way(chance, case.blob, chance.choice(cases).blob)
            yield replace(case, blob=blob, damage=way.__name__.strip("_"))


def signed(folder: Path) -> list[Case]:
    """Two signatures of every kind of key, one message each."""
    messages = (b"approve m@2", b"approve m@3")
    cases = [signed_by_ssh(folder, kind, m) for kind in KINDS for m in messages]
    return cases + [signed_by_security_key(kind, m) for kind in SECURITY_KINDS for m in messages]


def disagreements(cases: Iterable[Case], folder: Path) -> Iterator[Case]:
    """Cases that one accepts and the other refuses."""
    for case in cases:
        if accepted_by_us(case) != accepted_by_ssh(case, folder):
            yield case


def main() -> None:
    """Print the disagreements, and how many mutants of which damage were tried."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        cases = signed(Path(name))
        damaged = list(mutants(cases, count, seed=seed))
        intact = sum(map(accepted_by_us, damaged))
        found = list(disagreements([*cases, *damaged], Path(name)))
    for case in found:
        ours = "we accept" if accepted_by_us(case) else "ssh-keygen accepts"
        print(f"only {ours}: {case.kind}, {case.damage}\n{case.public}\n{case.armored}")
    tried = ", ".join(f"{n} {what}" for what, n in Counter(c.damage for c in damaged).items())
    print(f"{count} mutants ({tried}), {intact} still valid, {time.monotonic() - began:.0f} s")
    print(f"{len(found)} disagreements")


if __name__ == "__main__":
    main()
