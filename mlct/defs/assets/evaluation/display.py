"""How an evaluation shows in Dagster: the check's line, the table of rules, metrics and plots."""

import base64
from typing import Any

import dagster as dg

from mlct.adapters.home import Home
from mlct.spec import ModelSpec

MODELS = ("challenger", "champion", "no_change", "baseline")


def next_step(spec: ModelSpec, report: dict[str, Any]) -> str:
    if report["decision"]["verdict"] != "PASS":
        return "Nothing to do: the champion stays."
    name = f"{spec.name}@{report['version']}"
    return (
        f"mlct request {spec.name}, then mlct approve {name} --key ~/.ssh/id_ed25519, then "
        f"launch the job {spec.name}_promotion."
    )


def rules(decision: dict[str, Any]) -> dg.MetadataValue:
    """What stands in the way first; whether there is enough to judge at all comes last."""
    order = ("FAIL", "INCONCLUSIVE", "NOT JUDGED", "NOT NEEDED", "PASS")
    ordered = sorted(
        decision["rules"], key=lambda r: (order.index(r["outcome"]), r["rule"] == "evidence")
    )
    columns = {"outcome": "outcome", "rule": "rule", "on": "name"}
    columns |= {"observed": "observed", "required": "required"}
    return dg.MetadataValue.table(
        [dg.TableRecord({c: str(rule[n]) for c, n in columns.items()}) for rule in ordered],
        schema=dg.TableSchema(columns=[dg.TableColumn(c, "string") for c in columns]),
    )


def metadata(
    home: Home, report: dict[str, Any], evidence: str, known: bool, spec: ModelSpec
) -> dict[str, Any]:
    metrics = report["evaluation"]["metrics"]
    models = [m for m in MODELS if m in metrics]
    shown: dict[str, Any] = {
        "verdict": report["decision"]["verdict"],
        "sentence": report["sentence"],
        "version": report["version"],
        "champion": str(report["champion"] or "none"),
        "rules": rules(report["decision"]),
        "metrics": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {"metric": name} | {m: _number(metrics[m].get(name)) for m in models}
                )
                for name in metrics.get("challenger", {})
            ],
            # What cannot be scored has no metrics at all.
            schema=dg.TableSchema(columns=[dg.TableColumn(c) for c in ("metric", *models)]),
        ),
    }
    for name, stored in report["plots"].items():
        picture = base64.b64encode(home.store.get(stored)).decode()
        shown[name] = dg.MetadataValue.md(f"![{name}](data:image/png;base64,{picture})")
    shown |= {
        "holdout_rows": report["evaluation"]["rows"],
        "evidence": evidence,
        "reused": known,
    }
    for primary in spec.gate.primaries:
        value = metrics.get("challenger", {}).get(primary.name)
        if value is not None:
            shown[primary.name] = value
    return shown


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"
