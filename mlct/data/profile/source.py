"""Tables, datasets, readers and frames as columns of Arrow arrays, a few columns at a time."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlct.errors import DataError

#: So many columns of a Parquet row group are decoded at once: more only costs memory.
COLUMNS = 3


def kind_of(kind: pa.DataType) -> str:
    """One of "number", "time", "category", "missing", "other"."""
    types = pa.types
    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "category"
    if types.is_temporal(kind):
        return "other" if types.is_interval(kind) else "time"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "number"
    if types.is_decimal(kind):
        return "number"
    return "missing" if types.is_null(kind) else "other"


def floats(array: pa.Array) -> Any:
    """The values of a number or time column without its nulls, as a numpy array.

    float32 stays; everything else is or becomes float64. Times are in microseconds.
    """
    if array.null_count:
        array = array.drop_null()
    types, kind = pa.types, array.type
    if types.is_dictionary(kind):
        return floats(array.dictionary_decode())
    if types.is_temporal(kind):
        if types.is_time(kind):
            target = pa.time64("us")
        else:
            target = pa.duration("us") if types.is_duration(kind) else pa.timestamp("us")
        array = array.cast(target, safe=False).cast(pa.int64())
    elif types.is_boolean(kind) or types.is_float16(kind):
        array = array.cast(pa.uint8() if types.is_boolean(kind) else pa.float32())
    elif types.is_decimal(kind):
        array = array.cast(pa.float64())
    # Not to_numpy: it imports pandas.
    dtype = np.dtype({"float": "f4", "double": "f8"}.get(str(array.type), str(array.type)))
    found = np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)
    return found if dtype.kind == "f" else found.astype(np.float64)


@dataclass(kw_only=True, slots=True)
class Source:
    """Data that can be read by column, `rows` long (None: not known before it is read)."""

    schema: pa.Schema
    rows: int | None
    table: pa.Table | None = None
    reader: pa.RecordBatchReader | None = None
    files: Sequence[Any] = ()
    dataset: Any = None
    spooled: Any = field(default=None)

    def arrays(self, names: Sequence[str]) -> Iterator[tuple[str, pa.Array]]:
        """`(column, array)` of every row of these columns."""
        if self.table is not None:
            for name in names:
                for chunk in self.table[name].chunks:
                    yield name, chunk
        elif self.files:
            yield from self._parquet(names)
        else:
            batches = self.reader
            if batches is None:
                batches = self.dataset.to_batches(
                    columns=list(names), batch_readahead=1, fragment_readahead=1
                )
            count = 0
            for batch in batches:
                count += batch.num_rows
                for name in names:
                    yield name, batch.column(batch.schema.get_field_index(name))
            self.rows = count

    def _parquet(self, names: Sequence[str]) -> Iterator[tuple[str, pa.Array]]:
        texts = [f.name for f in self.schema if f.name in names and kind_of(f.type) == "category"]
        for fragment in self.files:
            with fragment.open() as handle:
                file = pq.ParquetFile(handle, metadata=fragment.metadata, read_dictionary=texts)
                for group in range(file.num_row_groups):
                    for at in range(0, len(names), COLUMNS):
                        some = names[at : at + COLUMNS]
                        table = file.read_row_group(group, columns=some, use_threads=False)
                        for name in some:
                            for chunk in table[name].chunks:
                                yield name, chunk

    def close(self) -> None:
        """Forget what was written to disk on the way."""
        if self.spooled is not None:
            self.table = None
            self.spooled.cleanup()


def open_source(data: Any, *, twice: bool) -> Source:
    """Whatever can be profiled; `twice` when it will be read more than once.

    Raises DataError for anything else, and for two columns of one name.
    """
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        source = Source(schema=data.schema, rows=data.num_rows, table=data)
    elif isinstance(data, pa.RecordBatchReader):
        source = Source(schema=data.schema, rows=None, reader=data)
    elif hasattr(data, "scanner"):  # a Dataset
        source = _dataset(data)
    elif hasattr(data, "columns") and hasattr(data, "iloc"):
        table = _frame(data)
        source = Source(schema=table.schema, rows=table.num_rows, table=table)
    else:
        raise DataError(
            f"a {type(data).__module__}.{type(data).__qualname__} cannot be profiled",
            expected="a pandas DataFrame, pyarrow Table, Dataset or RecordBatchReader",
        )
    names = source.schema.names
    if double := sorted({n for n in names if names.count(n) > 1}):
        raise DataError(f"the rows have two columns {double[0]!r}", expected="distinct names")
    return _spool(source) if twice and source.reader is not None else source


def _dataset(data: Any) -> Source:
    """A Dataset; its Parquet files are opened by hand where they hold just its rows.

    That decodes texts as dictionaries, and a few columns at a time.
    """
    rows = data.count_rows()
    try:
        files = list(data.get_fragments())
    except ValueError:  # a filtered or projected one says so only by refusing
        return Source(schema=data.schema, rows=rows, dataset=data)
    plain = rows > 0 and all(
        type(f).__name__ == "ParquetFileFragment"
        and f.physical_schema.equals(data.schema, check_metadata=False)
        for f in files
    )
    # A fragment may hold only some row groups of its file.
    plain = plain and rows == sum(f.metadata.num_rows for f in files)
    return Source(schema=data.schema, rows=rows, dataset=data, files=files if plain else ())


def _spool(source: Source) -> Source:
    """A reader's rows in a temporary file, mapped into memory."""
    folder = tempfile.TemporaryDirectory(prefix="mlct-profile-")
    try:
        path = f"{folder.name}/rows.arrow"
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, source.schema) as writer:
            for batch in source.reader or ():
                writer.write_batch(batch)
        table = pa.ipc.open_file(pa.memory_map(path)).read_all()
    except BaseException:
        folder.cleanup()
        raise
    return Source(schema=table.schema, rows=table.num_rows, table=table, spooled=folder)


def _frame(frame: Any) -> pa.Table:
    """A DataFrame column by column: one that Arrow cannot hold keeps its nulls."""
    arrays = []
    for at in range(frame.shape[1]):
        series = frame.iloc[:, at]
        try:
            arrays.append(pa.Table.from_pandas(series.to_frame("x"), preserve_index=False)["x"])
        except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
            known = [None if missing else b"" for missing in series.isna()]
            arrays.append(pa.chunked_array([pa.array(known, pa.binary())]))
    return pa.table(arrays, names=[str(name) for name in frame.columns])
