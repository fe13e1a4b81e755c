"""Who may approve what: people, their keys and roles, and what each risk tier asks for."""

import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from mlct.data.digest import digest
from mlct.errors import ApprovalInvalid
from mlct.release.approval.signature import PublicKey

RISK_TIERS = ("low", "medium", "high")
#: What a tier or a deployment may demand besides contract and gate.
TRIALS = ("shadow", "canary")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """What a risk tier asks for.

    `approvers` people, `author` says whether the author is one of them. `roles` want one distinct
    person each; `distinct_roles` only that no two sign in the same one. `touch` demands security
    keys. `requires` names trials (shadow, canary) that must have passed. The evidence may be
    `evidence_days` old.
    """

    approvers: int
    author: bool
    distinct_roles: bool
    roles: tuple[str, ...] = ()
    touch: bool = False
    requires: tuple[str, ...] = ()
    evidence_days: int = 30


_DEFAULT_TIERS = {
    "low": Tier(approvers=1, author=True, distinct_roles=False),
    "medium": Tier(approvers=1, author=False, distinct_roles=False),
    "high": Tier(approvers=2, author=False, distinct_roles=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One approver. Signatures made outside `[not_before, not_after)` do not count.

    `emails` are further names under which the person commits or launches.
    """

    name: str
    roles: tuple[str, ...]
    keys: tuple[PublicKey, ...]
    not_before: datetime | None = None
    not_after: datetime | None = None
    emails: tuple[str, ...] = ()

    def present(self, at: datetime) -> bool:
        """Whether signatures made at a time count."""
        early = self.not_before is not None and at < self.not_before
        return not early and (self.not_after is None or at < self.not_after)

    def made(self, author: str) -> bool:
        """Whether this is an author: by name or e-mail, also out of `Name <e-mail>`."""
        author = _plain(author)
        name, _, email = author.partition("<")
        found = {author, name.strip(), email.strip(" >")}
        return not found.isdisjoint(_plain(own) for own in (self.name, *self.emails))


def _plain(name: str) -> str:
    """Without case and what cannot be seen, and one spelling for what looks the same."""
    seen = [c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf"]
    return " ".join("".join(seen).casefold().split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Approvers:
    """The approvers file, checked, with the digest of `document`, which is what it says as JSON.

    Who holds a role of `governance` may change it. Where nobody does, everybody in it may. Where a
    tier demands security keys, so does a change: those without one could do away with them.
    """

    people: tuple[Person, ...]
    tiers: Mapping[str, Tier]
    digest: str
    governance: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def governors(self) -> tuple[Person, ...]:
        """The people who may sign another approvers file."""
        held = [p for p in self.people if not set(self.governance).isdisjoint(p.roles)]
        able = [p for p in held or self.people if not self.touch or any(k.touched for k in p.keys)]
        return tuple(able)

    @property
    def touch(self) -> bool:
        """Whether a tier demands security keys."""
        return any(tier.touch for tier in self.tiers.values())

    def holder(self, key: PublicKey, *, at: datetime) -> Person:
        """Who holds `key` at a time. Raises ApprovalInvalid."""
        for person in self.people:
            if key in person.keys:
                if not person.present(at):
                    raise ApprovalInvalid(
                        f"{person.name} is not an approver at {at:%Y-%m-%d %H:%M} UTC",
                        expected=f"between {person.not_before} and {person.not_after}",
                        fix="Ask a current approver",
                    )
                return person
        raise ApprovalInvalid(
            f"the key {key.fingerprint} belongs to no approver",
            expected=f"a key of {', '.join(p.name for p in self.people)}",
            fix="Have the key added to the approvers file, or sign with a listed one",
        )


def load(path: Path) -> Approvers:
    """Read an approvers file. Raises ApprovalInvalid naming the entry that is wrong."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml ships no types
        """YAML lets a repeated key win silently: a second `tiers:` at the end of a long file."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            if repeated := [n for n in names if names.count(n) > 1]:
                raise yaml.YAMLError(f"{repeated[0]!r} stands twice{node.start_mark}")
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    try:
        content = yaml.load(path.read_text(), Loader)
    except FileNotFoundError as error:
        raise ApprovalInvalid(
            f"there is no approvers file {path}",
            expected="a YAML file with `people:` (name, roles, keys)",
            fix="Write it (see docs/how-to/approve.md), or set MLCT_APPROVERS to where it is",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ApprovalInvalid(
            f"{path} cannot be read: {error}", expected="a YAML text file that mlct may read"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ApprovalInvalid(f"{path} is not YAML: {error}", expected="plain YAML") from error
    return parse(content, source=str(path))


def parse(content: Any, *, source: str = "approvers") -> Approvers:
    """Approvers from parsed YAML. Raises ApprovalInvalid."""
    read = _Reader(source)
    read.fields("the file", content, "people", "tiers governance")
    entries = content["people"]
    read.check("people", isinstance(entries, list) and entries, entries, "a list with entries")
    people = tuple(_person(read, f"people[{n}]", entry) for n, entry in enumerate(entries, 1))
    # A key or name that two entries share would let one person count twice.
    seen: set[Any] = set()
    for number, person in enumerate(people, 1):
        # A person's own name may stand among the e-mails too.
        for identity in {_plain(person.name), *map(_plain, person.emails)}:
            free = identity not in seen
            read.check(f"people[{number}]", free, person.name, "a name and e-mails used only once")
            seen.add(identity)
        for key in person.keys:
            read.check(f"people[{number}]", key not in seen, person.name, "keys used only once")
            seen.add(key)
    tiers, given = dict(_DEFAULT_TIERS), content.get("tiers", {})
    read.fields("tiers", given, "", " ".join(RISK_TIERS))
    for name, entry in given.items():
        tiers[name] = _tier(read, f"tiers.{name}", tiers[name], entry, people)
    governance: tuple[str, ...] = ("governance",)
    if "governance" in content:
        governance = read.held("governance", content["governance"], people)
    document = _json(content)
    found = Approvers(
        people=people,
        tiers=tiers,
        digest=digest(document),
        governance=governance,
        document=document,
    )
    expected = "a security key of somebody who may change the file, as a tier demands touch"
    read.check("people", found.governors, [p.name for p in people], expected)
    return found


@dataclass(frozen=True, slots=True)
class _Reader:
    """Checks parts of a file; every refusal says where."""

    source: str

    def check(self, where: str, right: Any, found: Any, expected: str) -> None:
        if not right:
            said = repr(found)
            raise ApprovalInvalid(
                f"{self.source}: {where} is {said if len(said) <= 80 else said[:79] + '…'}",
                expected=expected,
                fix="Correct the approvers file",
            )

    def fields(self, where: str, entry: Any, needed: str, optional: str) -> None:
        names = set(needed.split())
        told = f"a mapping of {needed} (and perhaps {optional})"
        self.check(where, isinstance(entry, dict), entry, told)
        right = names <= set(entry) <= names | set(optional.split())
        self.check(where, right, f"a mapping of {' '.join(map(str, entry))}", told)

    def texts(self, where: str, values: Any) -> tuple[str, ...]:
        self.check(where, isinstance(values, list) and values, values, "a list: [one, two]")
        for value in values:
            right = isinstance(value, str) and value and value == value.strip()
            self.check(where, right, value, "text without spaces around it")
        return tuple(values)

    def held(self, where: str, values: Any, people: tuple[Person, ...]) -> tuple[str, ...]:
        """Distinct roles, each of which somebody holds."""
        roles, known = self.texts(where, values), {r for p in people for r in p.roles}
        self.check(where, len(set(roles)) == len(roles), values, "each role once")
        self.check(where, set(roles) <= known, values, f"roles of {', '.join(sorted(known))}")
        return roles

    def instant(self, where: str, value: Any) -> datetime | None:
        try:
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            if isinstance(value, date) and not isinstance(value, datetime):
                value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        except ValueError:
            pass
        self.check(where, isinstance(value, datetime | None), value, "a date such as 2026-12-31")
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)

    def key(self, where: str, line: str) -> PublicKey:
        try:
            return PublicKey.parse(line)
        except ApprovalInvalid as error:
            found = f"{self.source}: {where}: {error.found}"
            raise ApprovalInvalid(found, expected=error.expected) from error


def _person(read: _Reader, where: str, entry: Any) -> Person:
    read.fields(where, entry, "name roles keys", "not_before not_after emails")
    (name,) = read.texts(f"{where}.name", [entry["name"]])
    lines = read.texts(f"{where}.keys", entry["keys"])
    person = Person(
        name=name,
        roles=read.texts(f"{where}.roles", entry["roles"]),
        keys=tuple(read.key(f"{where}.keys[{n}]", line) for n, line in enumerate(lines, 1)),
        not_before=read.instant(f"{where}.not_before", entry.get("not_before")),
        not_after=read.instant(f"{where}.not_after", entry.get("not_after")),
        emails=read.texts(f"{where}.emails", entry["emails"]) if "emails" in entry else (),
    )
    for email in person.emails:
        read.check(f"{where}.emails", "<" not in email, email, "the address without a name")
    if person.not_before and person.not_after:
        right = person.not_before < person.not_after
        read.check(f"{where}.not_after", right, entry["not_after"], "a date after not_before")
    return person


def _tier(read: _Reader, where: str, default: Tier, entry: Any, people: tuple[Person, ...]) -> Tier:
    read.fields(where, entry, "", " ".join(Tier.__dataclass_fields__))
    tier = Tier(**(asdict(default) | entry))
    roles: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    if "roles" in entry:
        roles = read.held(f"{where}.roles", entry["roles"], people)
    if "requires" in entry:
        requires = read.texts(f"{where}.requires", entry["requires"])
        known = set(requires) <= set(TRIALS)
        read.check(f"{where}.requires", known, entry["requires"], " and ".join(TRIALS))
    least = max(1, len(roles))
    if "approvers" not in entry:
        tier = replace(tier, approvers=max(tier.approvers, least))
    count = type(tier.approvers) is int and least <= tier.approvers <= len(people)
    expected = f"{least} to {len(people)}: so many are listed"
    read.check(f"{where}.approvers", count, tier.approvers, expected)
    for name in ("author", "distinct_roles", "touch"):
        value = getattr(tier, name)
        read.check(f"{where}.{name}", isinstance(value, bool), value, "true or false")
    days = tier.evidence_days
    right = type(days) is int and days > 0
    read.check(f"{where}.evidence_days", right, days, "a whole number of days")
    return replace(tier, roles=roles, requires=requires)


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_json(v) for v in value]
    return value if isinstance(value, str | int | None) else str(value)
