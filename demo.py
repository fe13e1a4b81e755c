"""Plays the year 2013 through the loop on real flights: `make demo`.

Everything here is what people and automation would do: jobs, a sensor tick, the `mlct` command.
"""

import contextlib
import io
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.absolute() / ".demo"
MODEL = "flight_delay"
PEOPLE = {"ana@airport.example": "model-risk", "ben@airport.example": "product"}
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def set_up() -> None:
    """A fresh instance, two approvers with SSH keys, and the environment that names both."""
    shutil.rmtree(FOLDER / "mlct", ignore_errors=True)
    for left in (FOLDER / "dagster").glob("*"):
        if left.name != "dagster.yaml":
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    for name in ("dagster", "mlct", "keys"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(FOLDER.parent / "dagster.yaml", FOLDER / "dagster" / "dagster.yaml")
    os.environ |= {
        "DAGSTER_HOME": str(FOLDER / "dagster"),
        "MLCT_HOME": str(FOLDER / "mlct"),
        "OMP_WAIT_POLICY": "passive",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    warnings.simplefilter("ignore")
    lines = [f"  - {{name: {n}, roles: [{r}], keys: ['{key(n)}']}}" for n, r in PEOPLE.items()]
    (FOLDER / "mlct" / "approvals.yaml").write_text("people:\n" + "\n".join(lines) + "\n")


def key(name: str) -> str:
    """A new private key file for a person; returns the public line."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    path = key_file(name)
    path.touch(mode=0o600)
    path.write_bytes(
        private.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())
    )
    public = private.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    return f"{public.decode()} {name}"


def key_file(name: str) -> Path:
    return FOLDER / "keys" / name.partition("@")[0]


@contextlib.contextmanager
def step(what: str, when: str = "") -> Iterator[Any]:
    """One line of the timeline: says what starts, then how it ended and how long it took."""
    print(f"{when:10}  {what:<10}", end="", flush=True)
    began = time.monotonic()
    told: list[str] = []
    yield told.append
    print(f"{told[0] if told else 'done'}  ({time.monotonic() - began:.1f} s)")
    for line in told[1:]:
        print(f"{'':24}{line}")


class Loop:
    """Runs the jobs of the reference project, as Dagster would."""

    def __init__(self) -> None:
        import dagster as dg

        from definitions import defs

        self.defs, self.instance, self.dg = defs, dg.DagsterInstance.get(), dg

    def run(self, job: str, *, config: Any = None, tags: Any = None, partition: Any = None) -> Any:
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config=QUIET | (config or {}),
            tags=tags,
            partition_key=partition,
            raise_on_error=False,
        )

    def ingest(self, month: int) -> int:
        done = self.run("ingest", partition=f"2013-{month:02}-01")
        assert done.success
        event = done.asset_materializations_for_node("flight_features")[0]
        rows: int = event.metadata["dagster/row_count"].value
        return rows

    def tick(self) -> Any:
        """What the drift sensor would ask for now."""
        sensor = self.defs.resolve_sensor_def(f"{MODEL}_retrain_on_drift")
        with self.dg.build_sensor_context(
            instance=self.instance, resources=self.defs.resources
        ) as context:
            return sensor.evaluate_tick(context)

    def retrain(self, tags: Any = None) -> tuple[str, int, str, int]:
        """`(verdict, version, sentence, rows)` of one run of the retrain job."""
        done = self.run(f"{MODEL}_retrain", tags=tags)
        assert done.success, f"{MODEL}_retrain failed: see the run in Dagster"
        gate = next(c for c in done.get_asset_check_evaluations() if c.check_name.endswith("_gate"))
        trained = done.asset_materializations_for_node(f"{MODEL}__challenger")[0].metadata
        version, rows = trained["version"].value, trained["train_rows"].value
        return gate.metadata["verdict"].value, version, gate.description, rows

    def promote(self, version: int) -> tuple[bool, str]:
        config = {"ops": {f"{MODEL}_promote": {"config": {"version": version}}}}
        done = self.run(f"{MODEL}_promotion", config=config)
        failed = [e for e in done.all_events if e.is_step_failure]
        return done.success, failed[0].step_failure_data.error.message if failed else ""


def mlct(*words: str) -> str:
    """The `mlct` command; its text."""
    from mlct.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(list(words))
    assert code == 0, f"mlct {' '.join(words)} exited with {code}"
    return out.getvalue().strip()


def sign_and_promote(loop: Loop, version: int) -> None:
    for name, role in PEOPLE.items():
        with step("approve") as tell:
            mlct("approve", f"{MODEL}@{version}", "--key", str(key_file(name)), "--yes")
            tell(f"{name} ({role}) signed for version {version}")
    with step("promote") as tell:
        ok, why = loop.promote(version)
        assert ok, why
        tell(f"version {version} is live: signatures, roles, evidence and bytes verified")


def told_retrain(tell: Any, found: tuple[str, int, str, int]) -> None:
    verdict, version, sentence, rows = found
    said = {"PASS": "ACCEPTED", "FAIL": "REFUSED", "INCONCLUSIVE": "UNDECIDED"}[verdict]
    tell(f"version {version} on {rows:,} flights: {said}")
    for reason in sentence.removeprefix(f"{verdict}: ").split("; "):
        tell(f"- {reason}")


def main() -> None:
    began = time.monotonic()
    set_up()
    with step("start", "") as tell:
        loop = Loop()
        tell("Dagster, MLflow, ledger: a fresh instance in .demo")

    with step("ingest", "2013-04-01") as tell:
        tell(f"January to March: {sum(loop.ingest(m) for m in (1, 2, 3)):,} flights")
    with step("retrain") as tell:
        found = loop.retrain()
        told_retrain(tell, found)
    with step("promote") as tell:
        ok, why = loop.promote(found[1])
        assert not ok
        tell("refused, as it must be: " + why.partition(": ")[2].strip())
    sign_and_promote(loop, found[1])

    for month in range(4, 13):
        date = f"{2013 + (month == 12)}-{month % 12 + 1:02}-01"
        with step("ingest", date) as tell:
            tell(f"{loop.ingest(month):,} flights")
        with step("monitor") as tell:
            done = loop.run(f"{MODEL}_monitoring")
            tell(done.get_asset_check_evaluations()[0].description)
        asked = loop.tick()
        if not asked.run_requests:
            print(f"{'':12}sensor    {asked.skip_message}")
            continue
        with step("retrain") as tell:
            found = loop.retrain(asked.run_requests[0].tags)
            told_retrain(tell, found)
        if found[0] == "PASS":
            sign_and_promote(loop, found[1])

    with step("rollback", "2014-01-02") as tell:
        text = mlct("rollback", MODEL, "--reason", "alerts at EWR doubled overnight", "--yes")
        tell(text.splitlines()[0])

    print(f"\n{mlct('status')}\n\n{mlct('history', MODEL)}\n\n{mlct('verify')}")
    minutes, seconds = divmod(time.monotonic() - began, 60)
    print(
        f"\nThe year took {minutes:.0f} min {seconds:.0f} s. Now look at it:\n"
        "  make ui          runs, checks, plots and lineage in Dagster\n"
        "  MLCT_HOME=.demo/mlct .venv/bin/mlct explain flight_delay\n"
        "  MLCT_HOME=.demo/mlct .venv/bin/mlct show flight_delay --evidence"
    )


if __name__ == "__main__":
    sys.exit(main())
