"""Plays the year 2013 through the loop on real flights: `make demo`.

Everything here is what people and automation would do: jobs, a sensor tick, the `mlct` command.
"""

import contextlib
import io
import json
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
        "MLCT_ACTOR": "zoe@airport.example",  # the author, also where no git commit tells
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


def short(text: str) -> str:
    """The first two things that a sentence says."""
    said = text.split("; ")
    return "; ".join(said[:2]) + "; ..." * (len(said) > 2)


def why(done: Any) -> str:
    """The first failure of a run, in its own words."""
    failed = [e.step_failure_data for e in done.all_events if e.is_step_failure]
    if not failed:
        return ""
    error = failed[0].user_failure_data or failed[0].error.cause or failed[0].error
    return str(getattr(error, "description", None) or error.message).strip()


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
            # Without it the runs would not show under their jobs in the UI.
            tags={".dagster/repository": "__repository__@mlct"} | (tags or {}),
            partition_key=partition,
            raise_on_error=False,
        )

    def ingest(self, month: int) -> int:
        done = self.run("ingest", partition=f"2013-{month:02}-01")
        assert done.success, why(done)
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

    def monitor(self, month: int) -> dict[str, Any]:
        """The checks of a month's window."""
        done = self.run(f"{MODEL}_monitoring", partition=f"2013-{month:02}-01")
        assert done.success, why(done)
        return {c.check_name: c for c in done.get_asset_check_evaluations()}

    def retrain(self, tags: Any = None) -> tuple[int, int]:
        """`(version, rows)` of one run of the retrain job."""
        done = self.run(f"{MODEL}_retrain", tags=tags)
        assert done.success, why(done)
        trained = done.asset_materializations_for_node(f"{MODEL}__challenger")[0].metadata
        return trained["version"].value, trained["train_rows"].value

    def promote(self, version: int) -> tuple[bool, str]:
        config = {"ops": {f"{MODEL}_promote": {"config": {"version": version}}}}
        done = self.run(f"{MODEL}_promotion", config=config)
        return done.success, why(done)


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
        ok, said = loop.promote(version)
        assert ok, said
        tell(f"version {version} is live: signatures, roles, evidence and bytes verified")


def retrain(loop: Loop, tags: Any = None) -> tuple[str, int]:
    """One line of the timeline with the gate's reasons; `(verdict, version)`."""
    with step("retrain") as tell:
        version, rows = loop.retrain(tags)
        report = json.loads(mlct("show", f"{MODEL}@{version}", "--evidence", "--json"))["report"]
        verdict, rules = report["decision"]["verdict"], report["decision"]["rules"]
        said = {"PASS": "ACCEPTED", "FAIL": "REFUSED", "INCONCLUSIVE": "UNDECIDED"}[verdict]
        tell(f"version {version} on {rows:,} flights: {said}")
        for rule in rules:
            if rule["rule"] != "evidence" and (verdict == "PASS" or rule["outcome"] != "PASS"):
                asked = f" (asked: {rule['required']})" if rule["bound"] is not None else ""
                tell(f"- {rule['outcome']:<12} {rule['name']} {rule['observed']}{asked}")
    return verdict, version


def main() -> None:
    began = time.monotonic()
    set_up()
    with step("start", "") as tell:
        loop = Loop()
        tell("Dagster, MLflow, ledger: a fresh instance in .demo")

    with step("ingest", "2013-04-01") as tell:
        tell(f"January to March: {sum(loop.ingest(m) for m in (1, 2, 3)):,} flights")
    _, version = retrain(loop)
    with step("promote") as tell:
        ok, said = loop.promote(version)
        assert not ok
        tell("refused, as it must be: " + said.partition(": ")[2])
    sign_and_promote(loop, version)

    for month in range(4, 13):
        date = f"{2013 + (month == 12)}-{month % 12 + 1:02}-01"
        with step("ingest", date) as tell:
            tell(f"{loop.ingest(month):,} flights")
        with step("monitor") as tell:
            checks = loop.monitor(month)
            assert checks["slot_matches_ledger"].passed
            for name in ("realised_performance", "feature_drift", "objectives"):
                tell(f"{name}: {short(checks[name].description)}")
        asked = loop.tick()
        if not asked.run_requests:
            print(f"{'':12}sensor    {short(asked.skip_message)}")
            continue
        verdict, version = retrain(loop, asked.run_requests[0].tags)
        if verdict == "PASS":
            sign_and_promote(loop, version)

    with step("rollback", "2014-01-02") as tell:
        text = mlct("rollback", MODEL, "--reason", "alerts at EWR doubled overnight", "--yes")
        tell(text.splitlines()[0])
    with step("monitor") as tell:
        tell(loop.monitor(12)["slot_matches_ledger"].description)

    print(f"\n{mlct('status')}\n\n{mlct('history', MODEL)}\n\n{mlct('verify')}")
    minutes, seconds = divmod(time.monotonic() - began, 60)
    print(
        f"\nThe year took {minutes:.0f} min {seconds:.0f} s. Now look at it:\n"
        "  make ui, then http://127.0.0.1:3000/locations/mlct/asset-groups/flight_delay/lineage\n"
        "  MLCT_HOME=.demo/mlct .venv/bin/mlct explain flight_delay\n"
        "  MLCT_HOME=.demo/mlct .venv/bin/mlct show flight_delay --evidence"
    )


if __name__ == "__main__":
    sys.exit(main())
