"""Content-addressed, immutable Parquet datasets.

A snapshot is a manifest (canonical JSON) that lists Parquet parts by sha256; the manifest's own
sha256 is the snapshot's digest. Equal rows in equal order, written by the same Arrow, have equal
digests, whatever their chunking, their encoding in memory and the library they come from.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from mlct.data.digest import canonical
from mlct.errors import DataError, SnapshotCorrupted

if TYPE_CHECKING:  # it imports pandas, which the command line has no use for
    import pyarrow.dataset as ds

FORMAT = "mlct.snapshot/v1"
ROWS_PER_PART = 500_000


class Store(Protocol):
    """Content-addressed objects and named references to them."""

    def put(self, data: bytes | memoryview) -> str:
        """Keep bytes; returns their sha256. Writing the same bytes again is free."""

    def get(self, digest: str) -> bytes:
        """The bytes of a digest. Raises SnapshotMissing, SnapshotCorrupted."""

    def open(self, digest: str) -> Any:
        """A verified `(pyarrow filesystem, path)` of an object, for lazy reading."""

    def set_ref(self, name: str, digest: str) -> None:
        """Point a name at a digest, atomically."""

    def ref(self, name: str) -> str | None:
        """The digest that a name points at."""

    def refs(self, prefix: str) -> dict[str, str]:
        """All names below a prefix, with what they point at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One stored dataset: its digest, rows, bytes and schema."""

    digest: str
    rows: int
    bytes: int
    schema: pa.Schema
    parts: tuple[str, ...]


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type in which a snapshot keeps a column.

    Dictionaries and large or view layouts are ways to hold values, not values; a dictionary would
    even tell of rows that are not there.
    """
    types = pa.types
    if types.is_dictionary(kind):
        return stored_type(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_struct(kind):
        return pa.struct([_stored(field) for field in kind])
    if types.is_map(kind):
        return pa.map_(_stored(kind.key_field), _stored(kind.item_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(_stored(kind.value_field), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(_stored(kind.value_field))
    return kind


def _stored(field: pa.Field) -> pa.Field:
    # Without metadata: it holds library versions and the like, which are no data.
    return pa.field(field.name, stored_type(field.type), field.nullable)


def plain_rows(table: pa.Table) -> pa.Table:
    """`table` in the types that a snapshot keeps, and without metadata."""
    return table.cast(_plain_schema(table.schema))


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([_stored(field) for field in schema])


def _parts(data: Any) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """`(schema, tables of ROWS_PER_PART rows)` of a Table, Dataset, reader or DataFrame."""
    if isinstance(data, pa.RecordBatchReader):
        schema, batches = data.schema, iter(data)
    elif isinstance(data, pa.Table) or hasattr(data, "scanner"):  # a Dataset
        schema, batches = data.schema, iter(data.to_batches())
    elif hasattr(data, "columns") and hasattr(data, "iloc"):
        return _parts(_from_pandas(data))
    else:
        raise DataError(
            f"a {type(data).__module__}.{type(data).__qualname__} cannot be stored as a snapshot",
            expected="a pandas DataFrame, pyarrow Table, Dataset or RecordBatchReader",
        )
    if twice := sorted({n for n in schema.names if schema.names.count(n) > 1}):
        raise DataError(f"the rows have two columns {twice[0]!r}", expected="distinct names")

    def tables() -> Iterator[pa.Table]:
        held: list[pa.RecordBatch] = []
        count = 0
        for batch in batches:
            while count + batch.num_rows >= ROWS_PER_PART:
                take = ROWS_PER_PART - count
                yield pa.Table.from_batches([*held, batch.slice(0, take)])
                batch, held, count = batch.slice(take), [], 0
            held, count = [*held, batch], count + batch.num_rows
        if count:
            yield pa.Table.from_batches(held)

    stored = _plain_schema(schema)
    return stored, (t.cast(stored).combine_chunks() for t in tables())


def _from_pandas(frame: Any) -> pa.Table:
    """A frame with its named index levels as columns; an index without a name is no data."""
    try:
        named = [n for n in frame.index.names if n is not None]
        frame = frame.reset_index(named) if named else frame
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (ValueError, pa.ArrowException) as error:
        raise DataError(
            f"the DataFrame cannot be stored: {error}",
            expected="one type a column, and distinct names",
            fix="Mend the column in the asset that returns it",
        ) from error


def _parquet(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table, sink, compression="zstd", row_group_size=65_536, version="2.6")
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"the rows cannot be stored: {error}",
            expected="types that Parquet has",
            fix="Cast the column in the asset that returns it",
        ) from error
    return sink.getvalue()


def write(store: Store, data: Any) -> Snapshot:
    """Store `data`; peak memory is one part. Raises DataError for what it cannot store."""
    schema, tables = _parts(data)
    parts = []
    for table in tables:
        buffer = _parquet(table)
        parts.append(
            {"sha256": store.put(memoryview(buffer)), "rows": table.num_rows, "bytes": buffer.size}
        )
    manifest = canonical(
        {"format": FORMAT, "parts": parts, "schema": schema.serialize().to_pybytes().hex()}
    )
    return _snapshot(store.put(manifest), manifest)


def _snapshot(digest: str, manifest: bytes) -> Snapshot:
    # Canonical JSON is sorted, and this is the first of its keys.
    if not manifest.startswith(canonical({"format": FORMAT})[:-1]):
        raise SnapshotCorrupted(
            f"object {digest} starts with {manifest[:40]!r}",
            expected=f"a manifest of format {FORMAT}",
            fix="Pass the digest of a snapshot",
            digest=digest,
        )
    content = json.loads(manifest)
    return Snapshot(
        digest=digest,
        rows=sum(p["rows"] for p in content["parts"]),
        bytes=sum(p["bytes"] for p in content["parts"]),
        schema=pa.ipc.read_schema(pa.BufferReader(bytes.fromhex(content["schema"]))),
        parts=tuple(p["sha256"] for p in content["parts"]),
    )


def find(store: Store, digest: str) -> Snapshot:
    """The snapshot of a digest. Raises SnapshotMissing, SnapshotCorrupted."""
    return _snapshot(digest, store.get(digest))


def read(store: Store, *digests: str) -> "ds.Dataset":
    """A lazy Dataset over one or more snapshots; every part is verified before it is opened.

    Several snapshots (partitions) are read as one, their schemas unified. Raises SnapshotMissing,
    SnapshotCorrupted, DataError when the schemas do not fit together.
    """
    import pyarrow.dataset as ds

    if not digests:
        raise DataError("no snapshot was asked for", expected="at least one digest")
    snapshots = [find(store, d) for d in digests]
    try:
        schema = pa.unify_schemas([s.schema for s in snapshots], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"the snapshots {', '.join(d[:12] for d in digests)} do not fit together: {error}",
            expected="partitions of one schema",
            fix="Materialise the partitions again with one version of the asset",
        ) from error
    opened = [store.open(part) for s in snapshots for part in s.parts]
    if not opened:
        return ds.dataset(pa.Table.from_batches([], schema=schema))
    return ds.dataset(
        [path for _, path in opened], filesystem=opened[0][0], format="parquet", schema=schema
    )
