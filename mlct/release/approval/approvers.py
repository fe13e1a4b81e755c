"""Who may approve what: people, their keys and roles, and what each risk tier asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from mlct.data.digest import digest
from mlct.errors import ApprovalInvalid
from mlct.release.approval.signature import PublicKey

RISK_TIERS = ("low", "medium", "high")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """What a risk tier asks for: how many people, whether the author counts, distinct roles."""

    approvers: int
    author: bool
    distinct_roles: bool


_DEFAULT_TIERS = {
    "low": Tier(approvers=1, author=True, distinct_roles=False),
    "medium": Tier(approvers=1, author=False, distinct_roles=False),
    "high": Tier(approvers=2, author=False, distinct_roles=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One approver. Signatures made outside `[not_before, not_after)` do not count."""

    name: str
    roles: tuple[str, ...]
    keys: tuple[PublicKey, ...]
    not_before: datetime | None = None
    not_after: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Approvers:
    """The approvers file, checked, with the digest of what it says."""

    people: tuple[Person, ...]
    tiers: Mapping[str, Tier]
    digest: str

    def holder(self, key: PublicKey, *, at: datetime) -> Person:
        """Who holds `key` at a time. Raises ApprovalInvalid."""
        for person in self.people:
            if key in person.keys:
                early = person.not_before and at < person.not_before
                if early or (person.not_after and at >= person.not_after):
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

    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ApprovalInvalid(
            f"there is no approvers file {path}",
            expected="a YAML file with `people:` (name, roles, keys)",
            fix="Write it (see docs/how-to/approve.md), or set MLCT_APPROVERS to where it is",
        ) from error
    except yaml.YAMLError as error:
        raise ApprovalInvalid(f"{path} is not YAML: {error}") from error
    return parse(content, source=str(path))


def parse(content: Any, *, source: str = "approvers") -> Approvers:
    """Approvers from parsed YAML."""

    def wrong(where: str, found: Any, expected: str) -> ApprovalInvalid:
        return ApprovalInvalid(f"{source}: {where} is {found!r}", expected=expected)

    if not isinstance(content, dict) or not isinstance(content.get("people"), list):
        raise wrong("the file", content, "a mapping with a list `people`")
    if extra := set(content) - {"people", "tiers"}:
        raise wrong("a key", sorted(extra)[0], "people or tiers")
    people = []
    seen: set[Any] = set()
    for number, entry in enumerate(content["people"], 1):
        where = f"people[{number}]"
        if not isinstance(entry, dict) or not entry.get("name"):
            raise wrong(where, entry, "a mapping with name, roles and keys")
        for field in ("roles", "keys"):
            values = entry.get(field)
            if not values or not isinstance(values, list) or not all(map(str.strip, values)):
                raise wrong(f"{where}.{field}", values, "a list with at least one entry")
        if extra := set(entry) - {"name", "roles", "keys", "not_before", "not_after"}:
            raise wrong(
                f"{where} key", sorted(extra)[0], "name, roles, keys, not_before, not_after"
            )
        keys = tuple(PublicKey.parse(line) for line in entry["keys"])
        # A key or name that two entries share would let one person count twice.
        for identity in (entry["name"], *keys):
            if identity in seen:
                raise wrong(where, entry["name"], "names and keys that no other entry has")
            seen.add(identity)
        people.append(
            Person(
                name=entry["name"],
                roles=tuple(entry["roles"]),
                keys=keys,
                not_before=_instant(entry.get("not_before"), f"{where}.not_before", wrong),
                not_after=_instant(entry.get("not_after"), f"{where}.not_after", wrong),
            )
        )
    tiers = dict(_DEFAULT_TIERS)
    for name, entry in (content.get("tiers") or {}).items():
        if name not in RISK_TIERS:
            raise wrong("a tier", name, ", ".join(RISK_TIERS))
        if not isinstance(entry, dict) or set(entry) - set(Tier.__dataclass_fields__):
            raise wrong(f"tiers.{name}", entry, "approvers, author, distinct_roles")
        values = {f: getattr(tiers[name], f) for f in Tier.__dataclass_fields__} | entry
        if not isinstance(values["approvers"], int) or values["approvers"] < 1:
            raise wrong(f"tiers.{name}.approvers", values["approvers"], "1 or more")
        tiers[name] = Tier(**values)
    return Approvers(people=tuple(people), tiers=tiers, digest=digest(_json(content)))


def _instant(value: Any, where: str, wrong: Any) -> datetime | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, AttributeError) as error:
        raise wrong(where, value, "a date such as 2026-12-31") from error


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_json(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
