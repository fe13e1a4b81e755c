"""SSH signatures: ours are ssh-keygen's, and nothing damaged gets through."""

import base64
import hashlib
import itertools
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import sshsig_mutants as mutants
from benchmarks.sshsig_mutants import HEAD, Case, armored, pack, unpack
from mlct.errors import ApprovalInvalid
from mlct.release.approval import signature
from mlct.release.approval.signature import NAMESPACE, PublicKey, sign, verify

MESSAGE = b"approve m@2"
SIZES = [("ed25519", None), *(("ecdsa", n) for n in (256, 384, 521)), ("rsa", 2048), ("rsa", 3072)]
every_kind = pytest.mark.parametrize(("kind", "bits"), SIZES)
every_security_key = pytest.mark.parametrize("kind", mutants.SECURITY_KINDS)
# The order of the ed25519 group.
L = 2**252 + 27742317777372353535851937790883648493


def public_of(key: Path) -> PublicKey:
    return PublicKey.parse(Path(f"{key}.pub").read_text())


def case_of(key: Path, text: str, message: bytes = MESSAGE) -> Case:
    public = Path(f"{key}.pub").read_text().strip()
    return Case(kind=key.name, public=public, blob=mutants.dearmored(text), message=message)


def keygen_sign(key: Path, message: bytes, namespace: str = NAMESPACE, *more: str) -> str:
    run = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", namespace, *more]
    return subprocess.run(run, input=message, capture_output=True, check=True).stdout.decode()


def with_fields(case: Case, **changes: bytes) -> Case:
    """The case with some of its five fields changed."""
    names = ("key", "namespace", "reserved", "hash", "value")
    fields = dict(zip(names, unpack(case.blob[10:]), strict=False)) | changes
    return replace(case, blob=HEAD + pack(*fields.values()))


@pytest.fixture(scope="module")
def signed(make_key, tmp_path_factory) -> list[Case]:
    return mutants.signed(tmp_path_factory.mktemp("signed"))


@pytest.fixture(scope="module")
def ed25519(make_key) -> Case:
    key = make_key()
    return case_of(key, sign(key, MESSAGE))


@every_kind
def test_what_ssh_keygen_signs_verifies_in_process(make_key, kind, bits):
    key = make_key(kind, bits=bits)
    assert verify(keygen_sign(key, MESSAGE), MESSAGE) == public_of(key)


@every_kind
def test_what_is_signed_in_process_verifies_with_ssh_keygen(make_key, tmp_path, kind, bits):
    key = make_key(kind, bits=bits)
    case = case_of(key, sign(key, MESSAGE))
    assert mutants.accepted_by_ssh(case, tmp_path)
    assert mutants.accepted_by_us(case)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_both_hashes_of_the_format_verify(make_key, algorithm):
    key = make_key()
    text = keygen_sign(key, MESSAGE, NAMESPACE, "-O", f"hashalg={algorithm}")
    assert verify(text, MESSAGE) == public_of(key)


def test_a_short_rsa_key_is_refused_by_name_and_by_signature(make_key):
    key = make_key("rsa", bits=1024)
    with pytest.raises(ApprovalInvalid, match="RSA key of 1024 bits"):
        verify(keygen_sign(key, MESSAGE), MESSAGE)
    with pytest.raises(ApprovalInvalid, match="RSA key of 1024 bits"):
        public_of(key)
    with pytest.raises(ApprovalInvalid, match="RSA key of 1024 bits"):
        sign(key, MESSAGE)


def test_a_signature_for_git_is_not_an_approval(make_key):
    with pytest.raises(ApprovalInvalid, match="is for 'git'"):
        verify(keygen_sign(make_key(), MESSAGE, "git"), MESSAGE)


def test_we_and_ssh_keygen_agree_on_every_mutant(signed, tmp_path):
    damaged = list(mutants.mutants(signed, 400))
    assert list(mutants.disagreements(damaged, tmp_path)) == []
    assert 0 < sum(map(mutants.accepted_by_us, damaged)) < 100


def test_the_mutants_find_a_verifier_that_ignores_the_namespace(signed, tmp_path, monkeypatch):
    def careless(text: str, message: bytes, *, namespace: str) -> PublicKey:
        return verify(text, message, namespace=signature.Signature.parse(text).namespace)

    monkeypatch.setattr(mutants, "verify", careless)
    assert any(mutants.disagreements(mutants.mutants(signed, 60), tmp_path))


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(text=st.text() | st.binary().map(armored), message=st.binary(), namespace=st.text())
def test_any_text_is_refused_as_invalid(text, message, namespace):
    with pytest.raises(ApprovalInvalid):
        verify(text, message, namespace=namespace)


FIELD = st.binary(max_size=80) | st.sampled_from([*mutants.NAMES, NAMESPACE.encode()])
KEY = st.tuples(
    st.sampled_from([k.encode() for k in (*signature._CURVES, *signature._TOUCHED)])
    | st.sampled_from([b"ssh-rsa", b"ssh-ed25519", b"ssh-dss"]),
    st.lists(FIELD | st.binary(min_size=32, max_size=32), max_size=4),
).map(lambda parts: pack(parts[0], *parts[1]))
BLOB = st.tuples(KEY, st.just(NAMESPACE.encode()), FIELD, st.just(b"sha512"), KEY | FIELD)


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(fields=BLOB)
def test_any_well_framed_blob_is_refused_as_invalid(fields):
    with pytest.raises(ApprovalInvalid):
        verify(armored(HEAD + pack(*fields)), MESSAGE)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(line=st.text() | st.tuples(KEY, st.text()).map(lambda k: f"x {base64.b64encode(k[0])!r}"))
def test_any_line_is_a_key_or_invalid(line):
    with pytest.raises(ApprovalInvalid):
        PublicKey.parse(line)


@every_security_key
def test_a_touched_security_key_counts_and_an_untouched_one_does_not(kind, tmp_path):
    touched = mutants.signed_by_security_key(kind, MESSAGE, flags=1)
    assert verify(touched.armored, MESSAGE) == PublicKey.parse(touched.public)
    verified_by_pin = mutants.signed_by_security_key(kind, MESSAGE, flags=5)
    assert mutants.accepted_by_us(verified_by_pin)
    for flags in (0, 4):
        untouched = mutants.signed_by_security_key(kind, MESSAGE, flags=flags)
        with pytest.raises(ApprovalInvalid, match="not touched"):
            verify(untouched.armored, MESSAGE)


@every_security_key
def test_ssh_keygen_accepts_an_untouched_security_key(make_key, kind, tmp_path):
    """Why we verify ourselves. If this fails, OpenSSH has changed its mind."""
    untouched = mutants.signed_by_security_key(kind, MESSAGE, flags=0)
    assert mutants.accepted_by_ssh(untouched, tmp_path)


@every_security_key
def test_touch_cannot_be_added_to_a_signature_afterwards(kind):
    case = mutants.signed_by_security_key(kind, MESSAGE, flags=0)
    value = unpack(case.blob[10:])[4]
    forged = with_fields(case, value=value[:-5] + b"\1" + value[-4:])
    with pytest.raises(ApprovalInvalid, match="does not match"):
        verify(forged.armored, MESSAGE)


def test_the_reserved_field_is_ignored_as_by_ssh_keygen(make_key, ed25519, tmp_path):
    filled = with_fields(ed25519, reserved=b"for later")
    assert mutants.accepted_by_us(filled)
    assert mutants.accepted_by_ssh(filled, tmp_path)


def test_an_ed25519_signature_has_one_form(make_key, ed25519, tmp_path):
    """RFC 8032 wants S below the group order; ssh-keygen does not look."""
    scheme, value, _ = unpack(unpack(ed25519.blob[10:])[4])
    number = int.from_bytes(value[32:], "little") + L
    other = with_fields(ed25519, value=pack(scheme, value[:32] + number.to_bytes(32, "little")))
    assert mutants.accepted_by_ssh(other, tmp_path)
    with pytest.raises(ApprovalInvalid, match="does not match"):
        verify(other.armored, MESSAGE)


def test_an_rsa_key_has_one_form(make_key):
    """Two spellings of a key would let one person stand in the approvers file twice."""
    kind, exponent, modulus, _ = unpack(public_of(make_key("rsa", bits=2048)).blob)
    for other in (pack(kind, b"\0" + exponent, modulus), pack(kind, exponent, b"\0" + modulus)):
        with pytest.raises(ApprovalInvalid, match="shortest form"):
            PublicKey.parse(f"ssh-rsa {base64.b64encode(other).decode()}")
    negative = base64.b64encode(pack(kind, exponent, modulus.lstrip(b"\0"))).decode()
    with pytest.raises(ApprovalInvalid, match="negative"):
        PublicKey.parse(f"ssh-rsa {negative}")


def test_a_number_beyond_every_key_size_is_refused_unread():
    endless = pack(b"ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 3000)
    with pytest.raises(ApprovalInvalid, match="too long"):
        PublicKey.parse(f"ssh-rsa {base64.b64encode(endless).decode()}")


def test_an_rsa_signature_may_leave_out_leading_zeros(make_key, tmp_path):
    """About one in 256 has one to leave out."""
    key = make_key("rsa", bits=2048)
    private, case = load_ssh_private_key(key.read_bytes(), None), case_of(key, sign(key, MESSAGE))
    for number in itertools.count():
        message = b"%d" % number
        hashed = pack(NAMESPACE.encode(), b"", b"sha512", hashlib.sha512(message).digest())
        value = private.sign(b"SSHSIG" + hashed, padding.PKCS1v15(), hashes.SHA512())
        if value[0] == 0:
            break
    short = with_fields(case, value=pack(b"rsa-sha2-512", value.lstrip(b"\0")))
    short = replace(short, message=message)
    assert mutants.accepted_by_us(short)
    assert mutants.accepted_by_ssh(short, tmp_path)


@pytest.mark.parametrize("place", range(len(HEAD)))
def test_every_byte_of_the_head_counts(ed25519, place):
    head = bytearray(HEAD)
    head[place] ^= 1
    with pytest.raises(ApprovalInvalid, match="not SSHSIG version 1"):
        verify(armored(bytes(head) + ed25519.blob[10:]), MESSAGE)


@pytest.mark.parametrize(
    ("inside", "problem"),
    [
        ("", "not an armored SSH signature"),
        ("AAAA\n!", "the signature is not base64"),
        ("AAAA\nA", "the signature is not base64"),
        ("AAAA", "the bytes are cut short"),
    ],
)
def test_what_stands_in_the_armor_must_be_base64(inside, problem):
    begin, end = (f"-----{word} SSH SIGNATURE-----" for word in ("BEGIN", "END"))
    with pytest.raises(ApprovalInvalid, match=problem):
        verify("\n".join([begin, *inside.splitlines(), end]), MESSAGE)
    with pytest.raises(ApprovalInvalid, match="not an armored SSH signature"):
        verify("\n".join([begin, *inside.splitlines(), begin]), MESSAGE)


@pytest.mark.parametrize(
    ("kind", "bits", "other"),
    [
        ("ed25519", None, b"ecdsa-sha2-nistp256"),
        ("ed25519", None, b""),
        ("ecdsa", 256, b"ecdsa-sha2-nistp384"),
        ("rsa", 2048, b"ssh-rsa"),
    ],
)
def test_a_signature_says_that_it_is_of_the_kind_of_its_key(make_key, tmp_path, kind, bits, other):
    """Else one signature would have several forms; and `ssh-rsa` is RSA with SHA-1."""
    key = make_key(kind, bits=bits)
    case = case_of(key, sign(key, MESSAGE))
    scheme, value, _ = unpack(unpack(case.blob[10:])[4])
    assert scheme != other
    renamed = with_fields(case, value=pack(other, value))
    with pytest.raises(ApprovalInvalid, match="signature by a"):
        verify(armored(renamed.blob), MESSAGE)
    assert not mutants.accepted_by_ssh(renamed, tmp_path)


def test_an_elliptic_key_has_one_form(make_key):
    kind, curve, point, _ = unpack(public_of(make_key("ecdsa", bits=256)).blob)
    compressed = pack(kind, curve, bytes([2 + point[-1] % 2]) + point[1:33])
    with pytest.raises(ApprovalInvalid, match="compressed"):
        PublicKey.parse(f"{kind.decode()} {base64.b64encode(compressed).decode()}")


def test_bytes_after_a_key_do_not_make_it_another_key(make_key):
    blob = public_of(make_key()).blob
    with pytest.raises(ApprovalInvalid, match="follow the end"):
        PublicKey.parse(f"ssh-ed25519 {base64.b64encode(blob + b'x').decode()}")


def test_a_negative_number_is_no_ecdsa_signature(make_key, tmp_path):
    key = make_key("ecdsa", bits=256)
    while True:
        case = case_of(key, sign(key, MESSAGE))
        scheme, value, _ = unpack(unpack(case.blob[10:])[4])
        r, s, _ = unpack(value)
        if r[0] == 0:
            break
    bare = with_fields(case, value=pack(scheme, pack(r[1:], s)))
    assert not mutants.accepted_by_us(bare)
    assert not mutants.accepted_by_ssh(bare, tmp_path)


def test_a_key_of_another_type_than_its_line_says_is_refused(make_key):
    words = Path(f"{make_key()}.pub").read_text().split()
    with pytest.raises(ApprovalInvalid, match="not of the type"):
        PublicKey.parse(f"ssh-rsa {words[1]}")


def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(make_key):
    key = make_key("ecdsa", bits=384)
    run = ["ssh-keygen", "-l", "-f", f"{key}.pub"]
    printed = subprocess.run(run, capture_output=True, check=True, text=True).stdout
    assert public_of(key).fingerprint == printed.split()[1]


@pytest.mark.parametrize("kind", ["dsa", "certificate"])
def test_other_types_of_key_are_refused(make_key, tmp_path, kind):
    blob = pack(b"ssh-dss" if kind == "dsa" else b"ssh-ed25519-cert-v01@openssh.com", b"1" * 32)
    name = unpack(blob)[0].decode()
    with pytest.raises(ApprovalInvalid, match=f"a key of type '{name}'"):
        PublicKey.parse(f"{name} {base64.b64encode(blob).decode()}")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Answers ssh-keygen's question with a passphrase; `asked()` counts the questions."""
    log, program = tmp_path / "questions", tmp_path / "askpass"

    def answer(passphrase: str) -> None:
        program.write_text(f"#!/bin/sh\necho asked >> '{log}'\necho '{passphrase}'\n")
        program.chmod(0o700)
        monkeypatch.setenv("SSH_ASKPASS", str(program))
        monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")

    answer.count = lambda: len(log.read_text().splitlines()) if log.exists() else 0
    return answer


def test_a_key_with_a_passphrase_signs_through_ssh_keygen(make_key, asked):
    key = make_key(passphrase="let me in")
    asked("let me in")
    assert verify(sign(key, MESSAGE), MESSAGE) == public_of(key)
    assert asked.count() == 1


def test_a_wrong_passphrase_is_refused(make_key, asked):
    key = make_key(passphrase="let me in")
    asked("open sesame")
    with pytest.raises(ApprovalInvalid, match="could not sign"):
        sign(key, MESSAGE)


def test_the_public_half_of_an_encrypted_key_needs_no_passphrase(make_key, asked):
    key = make_key(passphrase="let me in")
    asked("never asked")
    assert signature.public_key(key) == signature.public_key(Path(f"{key}.pub")) == public_of(key)
    assert asked.count() == 0


def test_a_key_in_an_older_format_is_known_by_the_public_file_beside_it(make_key):
    key = make_key("rsa", bits=2048)
    run = ["ssh-keygen", "-q", "-p", "-m", "PEM", "-N", "", "-f", str(key)]
    subprocess.run(run, check=True, capture_output=True)
    assert b"BEGIN RSA PRIVATE KEY" in key.read_bytes()
    assert verify(sign(key, MESSAGE), MESSAGE) == signature.public_key(key) == public_of(key)


def test_a_key_that_needs_ssh_keygen_says_so_where_there_is_none(make_key, monkeypatch):
    key = make_key(passphrase="let me in")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ApprovalInvalid, match="needs ssh-keygen"):
        sign(key, MESSAGE)


BEGIN, END = (b"-----%s OPENSSH PRIVATE KEY-----" % word for word in (b"BEGIN", b"END"))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"not a key",
        b"\xff\xfe",
        b"-----BEGIN OPENSSH",
        BEGIN,
        END,
        *(BEGIN + inside + END for inside in (b"", b"A", b"AAAA")),
    ],
)
def test_a_file_that_is_no_key_is_refused(make_key, tmp_path, content):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    for use in (signature.public_key, lambda key: sign(key, MESSAGE)):
        with pytest.raises(ApprovalInvalid):
            use(path)


def test_a_folder_is_no_key(tmp_path):
    with pytest.raises(ApprovalInvalid, match="cannot be read"):
        sign(tmp_path, MESSAGE)
