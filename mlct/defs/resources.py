"""Dagster resources: where mlct keeps things, and the documents that its assets hand on."""

import functools
import json
from dataclasses import fields
from typing import Any

import dagster as dg
from pydantic import Field

from mlct.adapters.home import Home
from mlct.data.digest import canonical
from mlct.errors import DataError


class MlctHome(dg.ConfigurableResource):
    """`mlct.adapters.home.Home` as a resource: store, ledger, registry and approvers.

    Empty fields follow from `root`; see `Home` for what each may be.
    """

    root: str
    objects: str = ""
    tracking_uri: str = Field(default="", repr=False)
    approvers_file: str = ""
    promotion_uri: str = Field(default="", repr=False)
    approved: str = ""
    ledger_url: str = Field(default="", repr=False)
    checkpoint: str = ""
    checkpoint_key: str = ""
    pagerduty_key: str = Field(default="", repr=False)
    pagerduty_url: str = ""
    notify: str = Field(default="", repr=False)

    @property
    def home(self) -> Home:
        return _home(*(getattr(self, field.name) for field in fields(Home)))

    def hand_on(self, model: str, name: str, run_id: str, document: dict[str, Any]) -> str:
        """Store a document as the newest `name` of a model and of this run; returns its digest."""
        store = self.home.store
        digest = store.put(canonical(document))
        for place in (f"runs/{run_id}", "newest"):
            store.set_ref(f"documents/{model}/{name}/{place}", digest)
        return digest

    def handed(
        self, model: str, name: str, run_id: str | None = None
    ) -> tuple[str, dict[str, Any]]:
        """`(digest, document)` as this run wrote it, else the newest. Raises DataError."""
        store, place = self.home.store, f"documents/{model}/{name}"
        digest = (run_id and store.ref(f"{place}/runs/{run_id}")) or store.ref(f"{place}/newest")
        if not digest:
            raise DataError(
                f"{model} has no {name} yet",
                expected=f"the asset {model}/{name} to have been materialised",
                fix=f"Run the job {model}_retrain, which makes it first",
            )
        return digest, json.loads(store.get(digest))


@functools.lru_cache(maxsize=16)
def _home(*fields: str) -> Home:
    # One ledger connection and one MLflow client per process and place.
    return Home(*fields)
