"""Mergeable column profiles, made in one pass over Arrow batches.

A reference profile (`profile(training_rows)`) chooses the edges of its histograms and the
categories that it counts; a window is profiled on them (`profile(rows, edges_from=reference)`) and
costs only its own rows. Profiles on the same edges merge by exact addition: in any order and
grouping, merging gives the same bytes, so that a week is the merge of its days.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mlct.data.digest import canonical, sha256
from mlct.data.profile.categories import Categories, CategoryCounter, choose_vocabulary
from mlct.data.profile.edges import choose_edges
from mlct.data.profile.numbers import NumberCounter, Numbers
from mlct.data.profile.source import Source, kind_of, open_source
from mlct.errors import DataError

__all__ = ["FORMAT", "Column", "Profile", "profile"]

FORMAT = "mlct.profile/v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """What is known of one column.

    `kind` is "number" (bool and decimal among them), "time" (microseconds since 1970), "category"
    (text), "missing" (an Arrow null column), "other" (lists, structs, bytes: only rows and nulls),
    or "mixed" where merged windows disagree. `types` are the Arrow types seen; `nulls` does not
    count NaN.
    """

    kind: str
    types: tuple[str, ...]
    rows: int
    nulls: int
    values: Numbers | Categories | None = None

    @property
    def missing(self) -> int:
        """Rows without a value: null or NaN."""
        return self.nulls + (self.values.nan if isinstance(self.values, Numbers) else 0)

    def merge(self, other: "Column") -> "Column":
        """Both windows' rows. Raises DataError when the edges differ."""
        a, b = (self, other) if self.values is not None else (other, self)
        kinds = {self.kind, other.kind} - {"missing"}
        same = len(kinds) < 2
        values = a.values if same else None
        if same and a.values is not None and b.values is not None:
            values = a.values.merge(b.values)  # type: ignore[arg-type]
        return Column(
            kind=(kinds or {"missing"}).pop() if same else "mixed",
            types=tuple(sorted({*self.types, *other.types})),
            rows=self.rows + other.rows,
            nulls=self.nulls + other.nulls,
            values=values,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Column profiles of `rows` rows; a column with fewer rows was absent from some window."""

    rows: int
    columns: Mapping[str, Column]

    def merge(self, other: "Profile") -> "Profile":
        """The profile of both windows' rows: exactly associative and commutative.

        Raises DataError when a column was not profiled on the same edges.
        """
        _check_profile("merge", other)
        columns = dict(self.columns)
        for name, column in other.columns.items():
            try:
                columns[name] = columns[name].merge(column) if name in columns else column
            except DataError as error:
                raise DataError(
                    f"column {name!r}: {error.found}",
                    expected="two windows that were profiled on the same reference",
                    fix="Profile both with edges_from=the reference profile",
                    column=name,
                ) from error
        return Profile(
            rows=self.rows + other.rows, columns={n: columns[n] for n in sorted(columns)}
        )

    def coarse(self) -> "Profile":
        """The same rows on the bins of the population stability index alone (about ten).

        Windows on its edges cost a third; they have no Wasserstein distance, and a
        Kolmogorov-Smirnov distance with a wide bound.
        """
        return replace(
            self,
            columns={
                n: replace(c, values=c.values.coarse()) if isinstance(c.values, Numbers) else c
                for n, c in self.columns.items()
            },
        )

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal profiles have equal bytes."""
        columns = {
            name: {
                "kind": c.kind,
                "types": list(c.types),
                "rows": c.rows,
                "nulls": c.nulls,
                "values": None if c.values is None else c.values.plain(),
            }
            for name, c in self.columns.items()
        }
        return canonical({"format": FORMAT, "rows": self.rows, "columns": columns})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Profile":
        """What `to_bytes` wrote. Raises DataError for anything else."""
        try:
            content = json.loads(data)
        except ValueError as error:
            raise DataError(
                f"bytes that start with {data[:40]!r} are no JSON", expected=f"a {FORMAT} document"
            ) from error
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise DataError(
                f"a document of format {found!r}",
                expected=FORMAT,
                fix="Read it with the version of mlct that wrote it, or profile the rows again",
            )
        kinds = {"numbers": Numbers, "categories": Categories}

        def values(plain: Any) -> Any:
            return plain and kinds[plain["of"]].from_plain(plain)  # type: ignore[attr-defined]

        return cls(
            rows=content["rows"],
            columns={
                name: Column(
                    kind=c["kind"],
                    types=tuple(c["types"]),
                    rows=c["rows"],
                    nulls=c["nulls"],
                    values=values(c["values"]),
                )
                for name, c in sorted(content["columns"].items())
            },
        )

    def digest(self) -> str:
        """Hex sha256 of `to_bytes`."""
        return sha256(self.to_bytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.rows)


def profile(data: Any, *, edges_from: Profile | None = None) -> Profile:
    """Profile a pyarrow Table, Dataset or RecordBatchReader, or a pandas DataFrame.

    With `edges_from`, one pass counts the rows on that profile's edges and categories. Without, a
    pass before it chooses them: up to 1,000 equally full bins of the values (of a sample beyond
    4,194,304 rows; the counts are exact all the same), and up to 10,000 categories. Memory is
    bounded whatever the number of rows: a reader is read once, through a temporary file where two
    passes are needed. A column of a kind that cannot be profiled keeps its rows and nulls. Raises
    DataError for data that is none of these, or that has two columns of one name.
    """
    if edges_from is not None:
        _check_profile("edges_from", edges_from)
    source = open_source(data, twice=edges_from is None)
    try:
        counters = {f.name: _counter(source, f, edges_from) for f in source.schema}
        rows = dict.fromkeys(counters, 0)
        nulls = dict.fromkeys(counters, 0)
        for name, array in source.arrays(list(counters)):
            rows[name] += len(array)
            nulls[name] += array.null_count
            counter = counters[name]
            if counter is not None and array.null_count < len(array):
                counter.add(array)
        return Profile(
            rows=source.rows if source.rows is not None else max(rows.values(), default=0),
            columns={
                f.name: Column(
                    kind=kind_of(f.type),
                    types=(str(f.type),),
                    rows=rows[f.name],
                    nulls=nulls[f.name],
                    values=None if (c := counters[f.name]) is None else c.done(),
                )
                for f in sorted(source.schema, key=lambda f: f.name)
            },
        )
    finally:
        source.close()


def _check_profile(name: str, given: Any) -> None:
    if not isinstance(given, Profile):
        raise DataError(
            f"{name} is a {type(given).__qualname__}",
            expected="a Profile",
            fix="Profile the rows first: mlct.profile(rows)",
        )


def _counter(
    source: Source, field: pa.Field, edges_from: Profile | None
) -> NumberCounter | CategoryCounter | None:
    kind = kind_of(field.type)
    if kind not in ("number", "time", "category"):
        return None
    known = edges_from.columns.get(field.name) if edges_from is not None else None
    arrays = (array for _, array in source.arrays([field.name])) if edges_from is None else iter(())
    if kind == "category":
        if known is not None and isinstance(known.values, Categories):
            return CategoryCounter(known.values.vocabulary)
        return CategoryCounter(choose_vocabulary(arrays))
    if known is not None and known.kind == kind and isinstance(known.values, Numbers):
        return NumberCounter(known.values.edges)
    return NumberCounter(choose_edges(arrays, source.rows or 0))
