"""Checkpoints: signed notes over a Merkle root show what a hash chain alone cannot."""

import base64
import string
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mlct.errors import LedgerError, LedgerTampered
from mlct.release.ledger import (
    Checkpoint,
    Ledger,
    Signer,
    Verifier,
    checkpoint,
    require_checkpoint,
    statement,
)
from mlct.release.ledger.merkle import Tree

# Published with the Certificate Transparency reference implementation: roots of the first n leaves.
LEAVES = [
    bytes.fromhex(leaf) for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")
] + [bytes(range(0x60, 0x70))]
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def root(leaves):
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def naive(leaves):
    """RFC 6962, section 2.1, word by word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\1" + naive(leaves[:half]) + naive(leaves[half:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_published_with_certificate_transparency(size):
    assert root(LEAVES[:size]).hex() == ROOTS[size]


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_a_tree_that_grows_has_the_root_of_its_definition(leaves):
    assert root(leaves) == naive(leaves)


def test_every_size_has_a_root_of_its_own():
    tree, seen = Tree(), {Tree().root()}
    for number in range(300):
        tree.append(b"%d" % number)
        seen.add(tree.root())
        assert tree.size == number + 1
    assert len(seen) == 301


# The examples of c2sp.org/signed-note and of Go's sumdb/note, made by other implementations.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_NOTE = (
    f"{GO_TEXT}\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSN"
    "XgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
GO_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
SPEC_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ON"
    "ncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()


@pytest.mark.parametrize(
    ("key", "note", "text"),
    [(GO_KEY, GO_NOTE, GO_TEXT), (SPEC_KEY, SPEC_NOTE, "This is an example message.\n")],
)
def test_notes_of_other_implementations_open(key, note, text):
    assert Verifier.parse(key).open(note) == text
    assert str(Verifier.parse(key)) == key


def test_a_note_is_signed_as_go_signs_it():
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(GO_SECRET)[1:])
    signer = Signer.of(key, name="PeterNeumann")
    assert signer.sign(GO_TEXT) == GO_NOTE
    assert str(signer.verifier) == GO_KEY


@pytest.fixture(scope="module")
def signer():
    return Signer.of(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def test_signatures_of_others_are_ignored(signer):
    other = Signer.of(Ed25519PrivateKey.generate(), name="witness").sign(GO_TEXT)
    both = GO_NOTE + other.rpartition(b"\n\n")[2]
    assert Verifier.parse(GO_KEY).open(both) == GO_TEXT
    with pytest.raises(LedgerError, match="not signed by the key"):
        signer.verifier.open(both)


def test_any_flipped_bit_of_a_note_is_refused(signer):
    note = signer.sign("mlct-ledger\n7\nAAAA\n")
    for place in range(len(note)):
        for bit in range(8):
            flipped = bytearray(note)
            flipped[place] ^= 1 << bit
            with pytest.raises(LedgerError):
                signer.verifier.open(bytes(flipped))


def test_a_signature_has_one_spelling(signer):
    """The last letter of its base64 has two bits that say nothing."""
    note = signer.sign("a\n")
    assert note.endswith(b"=\n")
    for letter in string.ascii_letters + string.digits + "+/=":
        spelled = note[:-3] + letter.encode() + b"=\n"
        if spelled != note:
            with pytest.raises(LedgerError):
                signer.verifier.open(spelled)


def test_every_key_reads_as_it_is_written():
    """Base64 may hold the plus sign that parts name, id and key."""
    keys = [Signer.of(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in range(40)]
    assert any("+" in str(key.verifier).split("+", 2)[2] for key in keys)
    for key in keys:
        assert Verifier.parse(str(key.verifier)) == key.verifier


def line_of(signer, text):
    """A signature line over any text, as `sign` would not write it."""
    blob = signer.verifier.id + signer._key.sign(text.encode())
    return f"— {signer.verifier.name} {base64.b64encode(blob).decode()}\n"


@pytest.mark.parametrize(
    ("text", "parted", "more"),
    [
        ("a\x01\n", "\n", ""),
        ("\n", None, ""),
        ("a\n", "\n", "junk\n"),
        ("a\n", "\n", "— other A\n"),
        ("a\n", "\n", "— other AAAA\n"),
        ("a\n", "\n", "— other AAAAAA==\n"),
        ("a\n", "\n", "no end of line"),
    ],
    ids=["control", "no text", "junk", "not base64", "short", "id alone", "unended"],
)
def test_a_note_of_another_form_is_refused_whatever_is_signed(signer, text, parted, more):
    shown = "" if parted is None else text + parted
    right = ("a\n\n" + line_of(signer, "a\n")).encode()
    assert signer.verifier.open(right) == "a\n"
    with pytest.raises(LedgerError, match=r"no signed note|base64"):
        signer.verifier.open((shown + line_of(signer, text) + more).encode())


def test_a_signature_of_another_may_be_as_short_as_one_byte(signer):
    note = signer.sign("a\n") + "— other AAAAAAE=\n".encode()
    assert signer.verifier.open(note) == "a\n"


def test_a_note_has_a_million_bytes_at_most(signer):
    frame = len(signer.sign("\n"))
    longest = signer.sign("a" * (1_000_000 - frame) + "\n")
    assert len(longest) == 1_000_000
    assert signer.verifier.open(longest)
    with pytest.raises(LedgerError, match="no signed note"):
        signer.verifier.open(signer.sign("a" * (1_000_001 - frame) + "\n"))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n"])
def test_a_key_has_a_name_without_spaces_and_plus_signs(signer, name):
    with pytest.raises(LedgerError, match="a key named"):
        replace(signer.verifier, name=name)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_an_error_of_ours(data):
    verifier = Verifier.parse(GO_KEY)
    for note in (data, GO_NOTE + data, data + b"\n\n" + GO_NOTE.partition(b"\n\n")[2]):
        if note != GO_NOTE:
            with pytest.raises(LedgerError):
                verifier.open(note)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "name",
        GO_KEY.replace("c74f20a3", "c74f20a4"),
        GO_KEY.replace("Peter", "Poter"),
        GO_KEY.replace("+AR", "+AB"),
        GO_KEY[:-4],
        "a b+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "ssh-ed25519 AAAA",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ",
    ],
)
def test_what_is_no_verifier_key_is_refused(key):
    with pytest.raises(LedgerError, match=r"verifier key|a key named"):
        Verifier.parse(key)


def test_the_keys_of_openssh_sign_and_verify(make_key):
    path = make_key()
    signer, public = Signer.load(path), Path(f"{path}.pub").read_text()
    assert Verifier.parse(public) == signer.verifier == Verifier.parse(str(signer.verifier))
    assert Verifier.parse(public).open(signer.sign("a\n")) == "a\n"


def test_a_key_that_cannot_sign_says_why(make_key, tmp_path):
    for path in (make_key("rsa", bits=2048), make_key(passphrase="x" * 8), tmp_path / "none"):
        with pytest.raises(LedgerError, match=r"cannot sign.*ssh-keygen -t ed25519"):
            Signer.load(path)


def grow(ledger, count):
    for number in range(count):
        says = {"model": "m", "version": number}
        ledger.append(statement("training", {"artifact": str(number)}, says), actor="test")


@pytest.fixture
def ledger(where):
    """Nine rows."""
    made = Ledger(where)
    grow(made, 9)
    return made


def test_a_checkpoint_is_over_the_rows_hashes(ledger, signer):
    leaves = [bytes.fromhex(record.hash) for record in reversed(ledger.records())]
    found = Checkpoint.open(checkpoint(ledger, signer), signer.verifier)
    assert found == Checkpoint(origin="mlct-ledger", size=9, root=naive(leaves))


def test_a_checkpoint_of_another_implementation_opens_with_its_extensions(signer):
    line = base64.b64encode(bytes(range(32))).decode()
    note = signer.sign(f"mlct-ledger\n12\n{line}\nmore\n")
    assert Checkpoint.open(note, signer.verifier).root == bytes(range(32))


@pytest.mark.parametrize(
    "text",
    [
        "a\n",
        "mlct-ledger\n01\n{}\n",
        "other\n1\n{}\n",
        "mlct-ledger\n1\nAA\n",
        "mlct-ledger\n1\n!{}\n",
    ],
)
def test_what_is_signed_but_no_checkpoint_is_refused(signer, text):
    note = signer.sign(text.format(base64.b64encode(bytes(32)).decode()))
    with pytest.raises(LedgerError, match="no checkpoint of mlct-ledger"):
        Checkpoint.open(note, signer.verifier)


def test_a_ledger_that_grew_continues_its_checkpoints(ledger, signer):
    notes = [checkpoint(ledger, signer)]
    for _ in range(3):
        grow(ledger, 2)
        notes.append(checkpoint(ledger, signer, notes))
    assert require_checkpoint(ledger, notes, signer.verifier).size == 15
    assert require_checkpoint(ledger, notes[:1], signer.verifier).size == 9


def test_an_empty_ledger_has_a_checkpoint_that_all_continue(where, signer):
    ledger = Ledger(where)
    note = checkpoint(ledger, signer)
    grow(ledger, 3)
    assert require_checkpoint(ledger, [note], signer.verifier).size == 0


def contradicted(ledger, notes, signer, first, match):
    with pytest.raises(LedgerTampered, match=match) as found:
        require_checkpoint(ledger, notes, signer.verifier)
    assert found.value.sequence == first
    # Nor is it ever signed for again.
    with pytest.raises(LedgerTampered, match=match):
        checkpoint(ledger, signer, notes)


@pytest.mark.parametrize(("since", "first"), [(1, 1), (5, 1), (9, 1), (10, 10), (12, 10), (13, 13)])
def test_a_rewritten_chain_is_seen_by_a_checkpoint(ledger, signer, owner_of, since, first):
    notes = [checkpoint(ledger, signer)]
    for count in (3, 2):
        grow(ledger, count)
        notes.append(checkpoint(ledger, signer))
    owner_of(ledger).rewrite(
        lambda row: {"body": row["body"].replace(b'"m"', b'"m" ')}, since=since
    )
    assert ledger.verify() == 14
    end = {1: 9, 10: 12, 13: 14}[first]
    said = rf"statements {first} to {end} of .* rewritten"
    contradicted(ledger, notes, signer, first, said)


@pytest.mark.parametrize("last", [0, 4, 8])
def test_a_tail_that_was_cut_off_is_seen_by_a_checkpoint(ledger, signer, owner_of, last):
    note = checkpoint(ledger, signer)
    owner_of(ledger).cut(last)
    assert ledger.verify() == last
    contradicted(ledger, [note], signer, last + 1, rf"from {last + 1} on were cut off")


def test_a_tail_that_was_cut_off_and_grown_again_is_seen_by_a_checkpoint(ledger, signer, owner_of):
    note, owner = checkpoint(ledger, signer), owner_of(ledger)
    owner.cut(6)
    grow(Ledger(ledger.path) if ledger.path else ledger, 5)
    assert ledger.verify() == 11
    contradicted(ledger, [note], signer, 1, "rewritten")


def test_an_edited_row_is_still_named_itself(ledger, signer, owner_of):
    note = checkpoint(ledger, signer)
    owner_of(ledger).tamper("UPDATE statements SET actor = 'eve' WHERE sequence = 4")
    contradicted(ledger, [note], signer, 4, "statement 4 .* was changed")


def test_no_checkpoint_at_all_is_refused(ledger, signer):
    with pytest.raises(LedgerError, match="no checkpoint"):
        require_checkpoint(ledger, [], signer.verifier)


def test_one_bad_note_among_good_ones_is_refused(ledger, signer):
    good = checkpoint(ledger, signer)
    forged = checkpoint(ledger, Signer.of(Ed25519PrivateKey.generate()))
    with pytest.raises(LedgerError, match="not signed by the key"):
        require_checkpoint(ledger, [good, forged], signer.verifier)


def test_the_private_key_is_not_shown(signer):
    assert repr(signer) == f"Signer({signer.verifier})"


def test_verifies_in_the_reference_form(ledger, signer):
    """The parts of a note, taken apart by hand and given to the signature's library alone."""
    text, _, below = checkpoint(ledger, signer).decode().rpartition("\n\n")
    dash, name, encoded = below.strip().split(" ")
    blob = base64.b64decode(encoded)
    key = signer.verifier.key
    assert (dash, name) == ("—", "mlct-ledger")
    assert blob[:4] == sha256(b"mlct-ledger\n\1" + key).digest()[:4]
    public = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    public.verify(blob[4:], f"{text}\n".encode())
