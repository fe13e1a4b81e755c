"""The approvers file: what is wrong in it is named, and nobody counts twice."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from benchmarks import sshsig_mutants
from mlct.errors import ApprovalInvalid
from mlct.release.approval.approvers import Tier, load, parse
from mlct.release.approval.signature import PublicKey


@pytest.fixture(scope="module")
def line(make_key):
    return Path(f"{make_key()}.pub").read_text().strip()


@pytest.fixture(scope="module")
def other(make_key):
    return Path(f"{make_key('ecdsa', bits=256)}.pub").read_text().strip()


def person(line, **changes):
    return {"name": "ana", "roles": ["model-risk"], "keys": [line]} | changes


def test_a_right_file_names_people_their_keys_roles_and_times(tmp_path, line):
    path = tmp_path / "approvals.yaml"
    path.write_text(
        f"people:\n  - name: ana\n    roles: [model-risk, product]\n    keys: ['{line}']\n"
        "    not_before: 2026-01-31\n    not_after: 2027-01-31 12:00:00+02:00\n"
    )
    (ana,) = load(path).people
    assert (ana.name, ana.roles) == ("ana", ("model-risk", "product"))
    assert ana.keys == (PublicKey.parse(line),)
    assert ana.not_before == datetime(2026, 1, 31, tzinfo=UTC)
    assert ana.not_after == datetime(2027, 1, 31, 10, tzinfo=UTC)


WRONG = [
    ("the file", lambda line: None),
    ("the file", lambda line: []),
    ("the file", lambda line: {}),
    ("the file", lambda line: {"people": [person(line)], "peple": []}),
    ("the file", lambda line: {"people": [person(line)], 7: []}),
    ("people", lambda line: {"people": []}),
    ("people", lambda line: {"people": {"ana": line}}),
    (r"people\[1\]", lambda line: {"people": ["ana"]}),
    (r"people\[1\]", lambda line: {"people": [{"name": "ana"}]}),
    (r"people\[1\]", lambda line: {"people": [person(line, valid_until="2027-01-01")]}),
    (r"people\[1\]\.name", lambda line: {"people": [person(line, name="")]}),
    (r"people\[1\]\.name", lambda line: {"people": [person(line, name=7)]}),
    (r"people\[1\]\.name", lambda line: {"people": [person(line, name=" ana")]}),
    (r"people\[1\]\.roles", lambda line: {"people": [person(line, roles=[])]}),
    (r"people\[1\]\.roles", lambda line: {"people": [person(line, roles="product")]}),
    (r"people\[1\]\.roles", lambda line: {"people": [person(line, roles=["product "])]}),
    (r"people\[1\]\.roles", lambda line: {"people": [person(line, roles=[1])]}),
    (r"people\[1\]\.keys", lambda line: {"people": [person(line, keys=line)]}),
    (r"people\[1\]\.keys\[2\]", lambda line: {"people": [person(line, keys=[line, "ana"])]}),
    (r"people\[1\]\.keys\[1\]", lambda line: {"people": [person(line.replace("AAAA", "ÄÄÄÄ"))]}),
    (r"people\[1\]\.keys\[1\]", lambda line: {"people": [person(line[:40])]}),
    (r"people\[1\]\.keys\[1\]", lambda line: {"people": [person("ssh-rsa " + line.split()[1])]}),
    (r"people\[1\]\.not_after", lambda line: {"people": [person(line, not_after="next year")]}),
    (r"people\[1\]\.not_after", lambda line: {"people": [person(line, not_after=2027)]}),
    (r"people\[1\]\.not_before", lambda line: {"people": [person(line, not_before=True)]}),
    (
        r"people\[1\]\.not_after",
        lambda line: {
            "people": [person(line, not_before=date(2027, 1, 2), not_after="2027-01-02")]
        },
    ),
    ("tiers", lambda line: {"people": [person(line)], "tiers": {"extreme": {}}}),
    ("tiers", lambda line: {"people": [person(line)], "tiers": ["high"]}),
    (r"tiers\.high", lambda line: {"people": [person(line)], "tiers": {"high": None}}),
    (r"tiers\.high", lambda line: {"people": [person(line)], "tiers": {"high": {"people": 1}}}),
    *(
        (r"tiers\.low\.approvers", lambda line, n=n: tier(line, approvers=n))
        for n in (0, -1, True, "1", 1.0, None, 2)
    ),
    (r"tiers\.low\.author", lambda line: tier(line, author="no")),
    (r"tiers\.low\.distinct_roles", lambda line: tier(line, distinct_roles=1)),
    (r"tiers\.low\.touch", lambda line: tier(line, touch="yes")),
    *(
        (r"tiers\.low\.evidence_days", lambda line, n=n: tier(line, evidence_days=n))
        for n in (0, True, "30", 1.5, None)
    ),
    *(
        (r"tiers\.low\.roles", lambda line, n=n: tier(line, roles=n))
        for n in ([], ["product"], ["model-risk", "model-risk"], "model-risk")
    ),
    *(
        (r"tiers\.low\.requires", lambda line, n=n: tier(line, requires=n))
        for n in ([], ["drill"], ["shadow", 1], "shadow")
    ),
    (r"people\[1\]\.emails", lambda line: {"people": [person(line, emails=[])]}),
    ("governance", lambda line: {"people": [person(line)], "governance": ["product"]}),
]


def tier(line, **changes):
    return {"people": [person(line)], "tiers": {"low": changes}}


@pytest.mark.parametrize(("where", "content"), WRONG)
def test_a_wrong_entry_is_named(line, where, content):
    with pytest.raises(ApprovalInvalid, match=f"approvals.yaml: {where}(:| is)") as refused:
        parse(content(line), source="approvals.yaml")
    assert refused.value.expected


@pytest.mark.parametrize(
    "second",
    [
        lambda line, other: person(other),
        lambda line, other: person(other, name="ANA"),
        lambda line, other: person(line, name="ben"),
        lambda line, other: person(line + " at home", name="ben"),
        lambda line, other: person("  ".join(line.split()[:2]), name="ben"),
        lambda line, other: person(line, name="ben", keys=[other, line]),
    ],
    ids=["name", "name's case", "key", "comment", "spaces", "second key"],
)
def test_nobody_stands_in_the_file_twice(line, other, second):
    with pytest.raises(ApprovalInvalid, match=r"people\[2\]"):
        parse({"people": [person(line), second(line, other)]})


@pytest.mark.parametrize("spelling", ["\uff21na Li", "An\u200ba Li", "ana  li", "ANA LI"])
def test_nobody_is_two_people_by_two_spellings(line, other, spelling):
    with pytest.raises(ApprovalInvalid, match=r"people\[2\]"):
        parse({"people": [person(line, name="Ana Li"), person(other, name=spelling)]})


def test_an_address_stands_without_a_name(line):
    with pytest.raises(ApprovalInvalid, match="without a name"):
        parse({"people": [person(line, emails=["Ana <ana@x.example>"])]})


def test_touch_is_demanded_only_where_somebody_could_take_it_back(line, other):
    touched = sshsig_mutants.security_key("sk-ssh-ed25519@openssh.com")(b"").public
    both = [person(line), person(other, name="ben", keys=[touched])]
    tiers = {"high": {"touch": True}}
    assert [p.name for p in parse({"people": both, "tiers": tiers}).governors] == ["ben"]
    with pytest.raises(ApprovalInvalid, match="a security key of somebody who may change the file"):
        parse({"people": [both[0], person(other, name="ben")], "tiers": tiers})


def test_nobody_lists_one_key_twice(line):
    with pytest.raises(ApprovalInvalid, match=r"people\[1\]"):
        parse({"people": [person(line, keys=[line, line + " again"])]})


def test_a_short_rsa_key_is_named(make_key):
    short = Path(f"{make_key('rsa', bits=1024)}.pub").read_text()
    with pytest.raises(ApprovalInvalid, match=r"people\[1\].keys\[1\]: an RSA key of 1024 bits"):
        parse({"people": [person(short.strip())]})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("people: [", "is not YAML"),
        ("people: []\npeople: []", "'people' stands twice"),
        ("people: [{name: a, name: b}]", "'name' stands twice"),
        ("when: 2026-13-77", "is not YAML"),
        (b"\xff\xfe\xff", "cannot be read"),
        ("", "the file is None"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_refused(tmp_path, text, problem):
    path = tmp_path / "approvals.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ApprovalInvalid, match=problem):
        load(path)


def test_a_missing_file_says_what_to_write(tmp_path):
    with pytest.raises(ApprovalInvalid, match="MLCT_APPROVERS"):
        load(tmp_path / "approvals.yaml")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ApprovalInvalid, match="cannot be read"):
        load(tmp_path)


DAY = datetime(2027, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["2027-01-31", "2027-01-31T00:00", "2027-01-31T01:00+01:00", date(2027, 1, 31), DAY]
)
def test_a_period_is_half_open_in_utc(line, text):
    key, moment = PublicKey.parse(line), timedelta(microseconds=1)
    until, since = (
        parse({"people": [person(line, **{n: text})]}) for n in ("not_after", "not_before")
    )
    assert until.holder(key, at=DAY - moment) == until.people[0]
    assert since.holder(key, at=DAY) == since.people[0]
    for approvers, at in ((until, DAY), (since, DAY - moment)):
        with pytest.raises(ApprovalInvalid, match="ana is not an approver at"):
            approvers.holder(key, at=at)


def test_a_time_with_a_zone_is_the_same_instant_in_utc(line):
    east = datetime(2027, 1, 31, 9, tzinfo=timezone(timedelta(hours=9)))
    (ana,) = parse({"people": [person(line, not_after=east)]}).people
    assert ana.not_after == DAY


def test_an_unlisted_key_is_nobodys(line, other):
    with pytest.raises(ApprovalInvalid, match="belongs to no approver"):
        parse({"people": [person(line)]}).holder(PublicKey.parse(other), at=DAY)


def test_the_default_tiers_ask_for_one_one_other_and_two_roles(line):
    assert parse({"people": [person(line)]}).tiers == {
        "low": Tier(approvers=1, author=True, distinct_roles=False),
        "medium": Tier(approvers=1, author=False, distinct_roles=False),
        "high": Tier(approvers=2, author=False, distinct_roles=True),
    }

    assert Tier(approvers=1, author=True, distinct_roles=False).evidence_days == 30


@pytest.mark.parametrize(
    "says",
    [
        {"author": True},
        {"evidence_days": 1},
        {"touch": True},
        {"approvers": 2, "distinct_roles": True},
        {"requires": ("shadow", "canary")},
        {"roles": ("product",)},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["low", "medium", "high"])
def test_a_tier_changes_only_what_the_file_says(line, other, name, says):
    touched = sshsig_mutants.security_key("sk-ssh-ed25519@openssh.com")(b"").public
    people = [person(line), person(other, name="ben", roles=["product"], keys=[other, touched])]
    entry = {n: list(v) if isinstance(v, tuple) else v for n, v in says.items()}
    default = dict(parse({"people": people}).tiers)
    expected = default | {name: replace(default[name], **says)}
    assert parse({"people": people, "tiers": {name: entry}}).tiers == expected


def test_a_tier_asks_for_a_person_a_role(line, other):
    """Unless the file says how many: then it may not be fewer."""
    people = [person(line), person(other, name="ben", roles=["product"])]
    roles = {"roles": ["product", "model-risk"]}
    assert parse({"people": people, "tiers": {"low": roles}}).tiers["low"].approvers == 2
    with pytest.raises(ApprovalInvalid, match=r"tiers\.low\.approvers is 1"):
        parse({"people": people, "tiers": {"low": roles | {"approvers": 1}}})


def test_a_file_without_a_name_is_called_approvers():
    with pytest.raises(ApprovalInvalid, match=r"^approvers: the file is None"):
        parse(None)


def test_the_digest_names_what_the_file_says_and_not_how(tmp_path, line):
    path = tmp_path / "a.yaml"
    path.write_text(f"# comment\npeople:\n- keys: ['{line}']\n  roles: [model-risk]\n  name: ana\n")
    assert load(path).digest == parse({"people": [person(line)]}).digest
    for change in ({"roles": ["model-risk", "product"]}, {"not_after": date(2027, 1, 1)}):
        assert parse({"people": [person(line, **change)]}).digest != load(path).digest


def test_what_the_ledger_keeps_of_a_file_reads_as_the_same_file(line):
    """Numbers, truth, nothing and dates too."""
    entry = person(line, not_before=None, not_after=date(2027, 1, 31), emails=["ana@example.org"])
    tiers = {"low": {"author": False, "evidence_days": 7, "roles": ["model-risk"]}}
    read = parse({"people": [entry], "tiers": tiers, "governance": ["model-risk"]})
    assert parse(read.document) == read
