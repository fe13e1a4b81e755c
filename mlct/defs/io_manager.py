"""The IO manager that keeps any asset's rows as snapshots."""

from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin
from urllib.parse import quote

import dagster as dg
import pyarrow as pa

from mlct.data import snapshot
from mlct.defs.resources import MlctHome
from mlct.errors import DataError, SnapshotMissing


def ref_of(key: dg.AssetKey, partition: str | None) -> str:
    """The name under which the store keeps an asset's snapshot."""
    parts = [quote(p, safe="") for p in key.path]
    return "/".join(["assets", *parts, "@" + quote(partition or "", safe="")])


class SnapshotIOManager(dg.ConfigurableIOManager):
    """Stores DataFrames, Tables, Datasets and RecordBatchReaders as immutable Parquet snapshots.

    The asset's data version is the snapshot's digest. What comes back is what the downstream
    argument is annotated with: `pandas.DataFrame`, `pyarrow.Table`, or a lazy
    `pyarrow.dataset.Dataset` (also without annotation); several partitions come back as one, and
    None comes where a partition maps to none at all. Digests are verified on every load. A missing
    partition raises SnapshotMissing, unless the input's metadata has `allow_missing_partitions`.
    """

    home: MlctHome

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if obj is None:
            raise DataError(
                f"asset {context.asset_key.to_user_string()} returned None",
                expected="rows: a DataFrame, Table, Dataset or RecordBatchReader",
            )
        store = self.home.home.store
        written = snapshot.write(store, obj)
        partition = context.asset_partition_key if context.has_asset_partitions else None
        store.set_ref(ref_of(context.asset_key, partition), written.digest)
        context.step_context.set_data_version(context.asset_key, dg.DataVersion(written.digest))
        context.add_output_metadata(
            {
                "dagster/row_count": written.rows,
                "dagster/column_schema": dg.TableSchema(
                    columns=[
                        dg.TableColumn(name=field.name, type=str(field.type))
                        for field in written.schema
                    ]
                ),
                "digest": written.digest,
                "bytes": written.bytes,
            }
        )

    def load_input(self, context: dg.InputContext) -> Any:
        key = context.asset_key
        wanted = context.asset_partition_keys if context.has_asset_partitions else [None]
        if not wanted:  # the first partition of an asset that looks back
            return None
        store = self.home.home.store
        found = {p: store.ref(ref_of(key, p)) for p in wanted}
        missing = [p for p, digest in found.items() if digest is None]
        lenient = (context.definition_metadata or {}).get("allow_missing_partitions")
        digests = [digest for digest in found.values() if digest is not None]
        if missing and not (lenient and digests):
            name = key.to_user_string()
            which = ", ".join(str(p) for p in missing[:5] if p is not None)
            raise SnapshotMissing(
                f"{name} has no snapshot" + (f" of partition {which}" if which else ""),
                expected="the asset to have been materialised with the mlct IO manager",
                fix=f"Materialise {name}" + (f", partition {which}" if which else ""),
                partitions=missing,
            )
        data = snapshot.read(store, *digests)
        return _as(data, context.dagster_type.typing_type)


def _as(data: Any, wanted: Any) -> Any:
    if get_origin(wanted) in (Union, UnionType):  # `Table | None`: a partition may map to none
        wanted = next(t for t in get_args(wanted) if t is not type(None))
    if wanted is pa.Table:
        return data.to_table()
    kind = get_origin(wanted) or wanted
    home, name = getattr(kind, "__module__", ""), getattr(kind, "__name__", "")
    if wanted is Any or wanted is type(None) or (home, name) == ("pyarrow._dataset", "Dataset"):
        return data
    if home.startswith("pandas") and name == "DataFrame":
        return data.to_table().to_pandas()
    raise DataError(
        f"a snapshot cannot be loaded as {wanted}",
        expected="pandas.DataFrame, pyarrow.Table or pyarrow.dataset.Dataset",
        fix="Annotate the asset's argument with one of these",
    )


def as_dataset(rows: Any) -> Any:
    """What another IO manager loaded (a frame, a table, partitions by key) as a Dataset."""
    import pyarrow.dataset as ds

    if isinstance(rows, ds.Dataset):
        return rows
    if isinstance(rows, Mapping) and rows:
        tables = [as_dataset(part).to_table() for part in rows.values()]
        return ds.dataset(pa.concat_tables(tables, promote_options="permissive"))
    if isinstance(rows, pa.Table):
        return ds.dataset(rows)
    if hasattr(rows, "iloc"):
        named = [name for name in rows.index.names if name is not None]
        frame = rows.reset_index(named) if named else rows
        return ds.dataset(pa.Table.from_pandas(frame, preserve_index=False))
    empty = "an empty " if isinstance(rows, Mapping) else "a "
    raise DataError(
        f"the features came as {empty}{type(rows).__qualname__}",
        expected="a pandas DataFrame, pyarrow Table or Dataset, or a mapping of partitions to them",
        fix="Use io_manager_key='snapshots' on the feature asset, or return one of these",
    )
