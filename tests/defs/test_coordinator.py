"""Behind a proxy that says who asks: promotion runs need a person, and nobody can pretend."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mlct.defs.coordinator import ProxyIdentityRunCoordinator

JOBS = """
import dagster as dg

@dg.op
def nothing() -> None: ...

@dg.job(tags={"mlct/human_only": "true"})
def promotion() -> None:
    nothing()

@dg.job
def retrain() -> None:
    nothing()

defs = dg.Definitions(jobs=[promotion, retrain])
"""
CONFIG = """
run_coordinator:
  module: mlct.defs.coordinator
  class: ProxyIdentityRunCoordinator
  config: {person_header: X-Person, max_concurrent_runs: 2}
telemetry: {enabled: false}
"""
LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
Launch = Callable[..., dg.DagsterRun]


def post(url: str, body: Any, headers: dict[str, str]) -> Any:
    data = json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "dagster.yaml").write_text(CONFIG)
    (folder / "jobs.py").write_text(JOBS)
    with dg.DagsterInstance.from_config(str(folder)) as made:
        yield made


@pytest.fixture(scope="module")
def launch(instance: dg.DagsterInstance) -> Iterator[Launch]:
    """`launch(job, person="", tags={})`: over HTTP, at a webserver; the run as it then stands."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    home = Path(instance.root_directory)
    server = subprocess.Popen(
        [sys.executable, "-m", "dagster_webserver", "-f", "jobs.py", "-p", str(port)],
        cwd=home,
        env=os.environ | {"DAGSTER_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/graphql"
    location = {"repositoryLocationName": "jobs.py", "repositoryName": "__repository__"}

    def request(job: str, person: str = "", tags: dict[str, str] | None = None) -> dg.DagsterRun:
        said = [{"key": k, "value": v} for k, v in (tags or {}).items()]
        params = {"selector": location | {"jobName": job}, "executionMetadata": {"tags": said}}
        headers = {"X-Person": person} if person else {}
        body = {"query": LAUNCH, "variables": {"params": params}}
        launched = post(url, body, headers)["data"]["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run = instance.get_run_by_id(launched["run"]["runId"])
        assert run is not None
        return run

    try:
        for _ in range(120):
            try:
                post(url, {"query": "{ version }"}, {})
                break
            except OSError:
                time.sleep(0.5)
        yield request
    finally:
        server.terminate()
        server.wait(20)


def test_a_promotion_that_a_person_asked_for_is_queued_in_their_name(launch):
    run = launch("promotion", "ana@shop.example")
    assert run.status == dg.DagsterRunStatus.QUEUED
    assert run.tags["user"] == "ana@shop.example"


def test_a_promotion_that_nobody_asked_for_fails_before_any_code_runs(instance, launch):
    run = launch("promotion")
    assert run.status == dg.DagsterRunStatus.FAILURE
    (said,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "Only people promote: the request has no header X-Person" in said.message


def test_who_only_says_so_is_nobody(launch):
    run = launch("promotion", tags={"user": "ana@shop.example"})
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert run.tags["user"] == ""
    assert launch("promotion", "eve", tags={"user": "ana"}).tags["user"] == "eve"
    assert launch("retrain", tags={"user": "ana"}).tags["user"] == ""


def test_a_tag_cannot_say_that_a_promotion_is_none(launch):
    run = launch("promotion", tags={"mlct/human_only": "false"})
    assert run.status == dg.DagsterRunStatus.FAILURE


def test_other_jobs_run_without_a_person(launch):
    run = launch("retrain")
    assert run.status == dg.DagsterRunStatus.QUEUED
    assert "user" not in run.tags


def test_it_takes_all_settings_of_dagsters_own_queue(instance):
    coordinator = instance.run_coordinator
    assert isinstance(coordinator, ProxyIdentityRunCoordinator)
    assert coordinator.person_header == "X-Person"
    assert coordinator.get_run_queue_config().max_concurrent_runs == 2
