"""Drift of 60 columns against a stored reference: CPU and memory, beside peers and a plain read.

1,000,000 rows of 25 float32, 25 float64 and 10 string columns (2 to 5,000 categories), as one
Parquet file. Each contender runs in a process of its own; what it imports, and for peers also the
reading of both frames, is not counted. Ours reads the file, profiles it on the stored reference and
decides. CPU seconds, since machines are shared; the least of `--repeat` runs in the process for
what takes under a second, one run for peers.

    OMP_NUM_THREADS=1 python -m benchmarks.drift [--rows 1000000] [--peers FOLDER]

With `--peers`, Evidently and NannyML are installed into virtual environments in FOLDER (what is
there already is used) with the versions that still work. Where one cannot be had, the ratio is to
a published figure of another machine, and says so.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBERS, TEXTS = 50, (2, 3, 5, 10, 20, 50, 100, 500, 2000, 5000)
TEXT_NAMES = [f"c{j}" for j in range(len(TEXTS))]
DRIFTED = ("n3", "n11", "n20", "n27", "n33", "c4")
PEERS = {
    "evidently": ["evidently==0.7.23", "pandas==3.0.6", "pyarrow"],
    "nannyml": ["nannyml==0.13.1", "statsmodels", "pyarrow"],
}
PUBLISHED = {"evidently": 88.8, "evidently_bare": 2.5, "nannyml": 36.2}  # CPU s, 1,000,000 rows


def write(path: Path, rows: int, seed: int, moved: bool) -> None:
    """A file of `rows` rows; with `moved`, the columns of `DRIFTED` have other distributions."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random, writer = np.random.default_rng(seed), None
    for start in range(0, rows, 125_000):
        size = min(125_000, rows - start)
        columns: dict[str, Any] = {}
        for i in range(NUMBERS):
            by = 0.3 if moved and f"n{i}" in DRIFTED else 0.0
            match i % 5:
                case 0:
                    x = random.normal(by, size=size)
                case 1:
                    x = random.lognormal(by, size=size)
                case 2:
                    x = random.exponential(1 + by, size)
                case 3:
                    x = random.normal(by, size=size) + 4 * (random.random(size) < 0.4)
                case _:
                    x = random.poisson(4 + 3 * by, size).astype(float)
            if i % 10 == 7:
                x[random.random(size) < 0.02] = np.nan
            columns[f"n{i}"] = x.astype(np.float32 if i % 2 else np.float64)
        for name, many in zip(TEXT_NAMES, TEXTS, strict=True):
            share = np.arange(1, many + 1) ** -0.8
            code = random.choice(many, size, p=share / share.sum()).astype(np.int32)
            if moved and name in DRIFTED:
                code[random.random(size) < 0.1] = 0
            values = pa.array([f"value_{v:05}" for v in range(many)])
            columns[name] = pa.DictionaryArray.from_arrays(pa.array(code), values).cast(pa.string())
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=125_000)
    if writer:
        writer.close()


def reference(folder: Path) -> Callable[[], Any]:
    """Making the stored reference: once for each training snapshot."""
    import pyarrow.dataset as ds

    from mlct.data.profile import profile

    def run() -> int:
        made = profile(ds.dataset(folder / "reference.parquet"))
        (folder / "reference.json").write_bytes(made.to_bytes())
        return (folder / "coarse.json").write_bytes(made.coarse().to_bytes())

    return run


def decode(folder: Path) -> Callable[[], Any]:
    """Only decoding the file, texts as dictionaries: what nothing can beat."""
    import pyarrow.parquet as pq

    def run() -> None:
        file = pq.ParquetFile(folder / "current.parquet", read_dictionary=TEXT_NAMES)
        for group in range(file.num_row_groups):
            file.read_row_group(group, use_threads=False)

    return run


def psi(folder: Path, name: str = "coarse") -> Callable[[], Any]:
    """Population stability of all columns."""
    import pyarrow.dataset as ds

    from mlct.data.profile import Profile, profile
    from mlct.monitoring.drift import drift

    stored = Profile.from_bytes((folder / f"{name}.json").read_bytes())

    def run() -> list[str]:
        window = profile(ds.dataset(folder / "current.parquet"), edges_from=stored)
        return [n for n, c in drift(stored, window).columns.items() if c.drifted]

    return run


def full(folder: Path) -> Callable[[], Any]:
    """The same with Jensen-Shannon, Kolmogorov-Smirnov and Wasserstein on 1,000 bins."""
    return psi(folder, "reference")


def frames(folder: Path) -> Any:
    import pandas as pd

    return [pd.read_parquet(folder / f"{name}.parquet") for name in ("reference", "current")]


def evidently(folder: Path) -> Callable[[], Any]:
    """Its data-drift preset, by PSI."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    old, new = frames(folder)
    return lambda: Report([DataDriftPreset(method="psi")]).run(new, old)


def evidently_bare(folder: Path) -> Callable[[], Any]:
    """Only its PSI function, which its users never call: the like-for-like figure."""
    from evidently.legacy.calculations.stattests import psi_stat_test as test

    old, new = frames(folder)
    kind = {n: "cat" if n in TEXT_NAMES else "num" for n in old.columns}
    return lambda: [test.func(old[n], new[n], kind[n], 0.1) for n in old.columns]


def nannyml(folder: Path) -> Callable[[], Any]:
    """Its univariate drift by Jensen-Shannon distance (it has no PSI)."""
    import nannyml as nml

    old, new = frames(folder)
    method = ["jensen_shannon"]
    calculator = nml.UnivariateDriftCalculator(
        column_names=list(old.columns),
        continuous_methods=method,
        categorical_methods=method,
        chunk_number=1,
    )
    return lambda: calculator.fit(old).calculate(new)


CONTENDERS = (reference, decode, psi, full, evidently, evidently_bare, nannyml)


def child(name: str, folder: Path, repeat: int) -> None:
    run = next(c for c in CONTENDERS if c.__name__ == name)(folder)
    spent = []
    for _ in range(repeat):
        start = time.process_time()
        found = run()
        spent.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    moved = sorted(found) if isinstance(found, list) and name in ("psi", "full") else None
    print(json.dumps({"cpu": min(spent), "peak": peak, "moved": moved}))


def measured(name: str, folder: Path, repeat: int, python: str = sys.executable) -> Any:
    quiet = {"NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}
    path = {"PYTHONPATH": str(Path(__file__).parents[1])} if python == sys.executable else {}
    run = subprocess.run(
        [python, __file__, "--child", name, str(folder), "--repeat", str(repeat)],
        env={**os.environ, **quiet, **path},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        print(f"{name} failed: {run.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(run.stdout.strip().splitlines()[-1])


def installed(name: str, folder: Path) -> str | None:
    """The Python of a peer's environment; None where it cannot be had."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", *PEERS[name]]
        if subprocess.run(pip).returncode:
            (folder / name).rename(folder / f"{name}.failed")
            return None
    return str(python)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--child", nargs=2)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]), given.repeat)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, seed in (("reference", 1), ("current", 2)):
            if not (folder / f"{name}.parquet").exists():
                write(folder / f"{name}.parquet", given.rows, seed, name == "current")
        compare(folder, given.rows, given.repeat, given.peers)


def compare(folder: Path, rows: int, repeat: int, peers: Path | None) -> None:
    print(f"{rows:,} rows x {NUMBERS} numbers + {len(TEXTS)} texts\n")
    print(f"{'':16}{'CPU s':>9}{'peak MB':>9}")
    found: dict[str, Any] = {}
    for name, times in (("reference", 1), ("decode", repeat), ("psi", repeat), ("full", repeat)):
        found[name] = measured(name, folder, times)
        print(f"{name:16}{found[name]['cpu']:9.3f}{found[name]['peak']:9.0f}", flush=True)
    for name in ("evidently", "evidently_bare", "nannyml"):
        python = installed(name.partition("_")[0], peers) if peers else None
        ran = measured(name, folder, 1, python) if python else None
        found[name] = ran or {"cpu": PUBLISHED[name] * rows / 1e6, "peak": 0}
        word = "" if ran else "  not run here: published for another machine"
        print(f"{name:16}{found[name]['cpu']:9.2f}{found[name]['peak']:9.0f}{word}", flush=True)
    print()
    cpu = {name: f["cpu"] for name, f in found.items()}
    for text, ratio, target in (
        ("psi / decode", cpu["psi"] / cpu["decode"], "at most 1.6"),
        ("full / decode", cpu["full"] / cpu["decode"], "at most 3.5"),
        ("Evidently preset / psi", cpu["evidently"] / cpu["psi"], "at least 100"),
        ("Evidently bare function / psi (like for like)", cpu["evidently_bare"] / cpu["psi"], ""),
        (
            "Evidently bare function / (psi + reference made anew)",
            cpu["evidently_bare"] / (cpu["psi"] + cpu["reference"]),
            "",
        ),
        ("NannyML univariate / psi", cpu["nannyml"] / cpu["psi"], "at least 50"),
        ("peak MB of the full set", found["full"]["peak"], "below 400"),
    ):
        print(f"{text:56}{ratio:9.2f}  {target}")
    for name in ("psi", "full"):
        told = found[name]["moved"]
        missed, false = set(DRIFTED) - set(told), set(told) - set(DRIFTED)
        print(f"{name}: missed {sorted(missed) or 'none'}, false {sorted(false) or 'none'}")


if __name__ == "__main__":
    main()
