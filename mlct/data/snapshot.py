"""Content-addressed, immutable Parquet datasets.

A snapshot is a manifest (canonical JSON) that lists Parquet parts by sha256; the manifest's own
sha256 is the snapshot's digest. Equal rows in equal order, written by the same Arrow, have equal
digests, whatever their chunking.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mlct.data.digest import canonical
from mlct.errors import DataError, SnapshotCorrupted

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


def _parts(data: Any) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """`(schema, tables of ROWS_PER_PART rows)` of a Table, Dataset, reader or DataFrame."""
    if isinstance(data, ds.Dataset):
        schema, batches = data.schema, iter(data.to_batches())
    elif isinstance(data, pa.RecordBatchReader):
        schema, batches = data.schema, iter(data)
    elif isinstance(data, pa.Table):
        schema, batches = data.schema, iter(data.to_batches())
    elif hasattr(data, "columns") and hasattr(data, "iloc"):
        named = [n for n in data.index.names if n is not None]
        frame = data.reset_index(named) if named else data
        table = pa.Table.from_pandas(frame, preserve_index=False)
        return _parts(table)
    else:
        raise DataError(
            f"a {type(data).__module__}.{type(data).__qualname__} cannot be stored as a snapshot",
            expected="a pandas DataFrame, pyarrow Table, Dataset or RecordBatchReader",
        )
    # Library versions live in schema metadata; they are not part of the data.
    schema = schema.remove_metadata()

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

    return schema, (t.replace_schema_metadata(None).combine_chunks() for t in tables())


def write(store: Store, data: Any) -> Snapshot:
    """Store `data`; peak memory is one part. Raises DataError for a type it cannot store."""
    schema, tables = _parts(data)
    parts = []
    for table in tables:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=65_536, version="2.6")
        buffer = sink.getvalue()
        parts.append(
            {"sha256": store.put(memoryview(buffer)), "rows": table.num_rows, "bytes": buffer.size}
        )
    manifest = canonical(
        {"format": FORMAT, "parts": parts, "schema": schema.serialize().to_pybytes().hex()}
    )
    return _snapshot(store.put(manifest), manifest)


def _snapshot(digest: str, manifest: bytes) -> Snapshot:
    content = json.loads(manifest)
    if content.get("format") != FORMAT:
        raise SnapshotCorrupted(
            f"object {digest} has format {content.get('format')!r}",
            expected=FORMAT,
            fix="Pass the digest of a snapshot",
        )
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


def read(store: Store, *digests: str) -> ds.Dataset:
    """A lazy Dataset over one or more snapshots; every part is verified before it is opened.

    Several snapshots (partitions) are read as one, their schemas unified. Raises SnapshotMissing,
    SnapshotCorrupted, DataError when the schemas do not fit together.
    """
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
