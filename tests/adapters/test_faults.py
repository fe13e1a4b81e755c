"""MLflow behind a proxy that refuses, stalls, answers 500, or cuts the answer after the write."""

import http.client
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mlct
from mlct.adapters.home import Home
from mlct.adapters.mlflow_registry import MlflowRegistry, transport
from mlct.adapters.mlflow_registry.transport import reported
from mlct.errors import RegistryError
from mlct.release import slot as slots
from mlct.training import fit

#: Seconds that a client waits for an answer in these tests.
PATIENCE = 2
CREATE_RUN, INPUTS = "POST .*/runs/create", "POST .*/runs/log-inputs"
UPLOAD, DOWNLOAD = "PUT .*/artifacts/.*model.txt", "GET .*/artifacts/.*model.txt"
MODEL, REGISTER = "POST .*/registered-models/create", "POST .*/model-versions/create"
READ, MOVE = "GET .*/registered-models/get", "POST .*/registered-models/alias"


class Proxy:
    """A loopback proxy. `fault` names what happens to which requests, and how often."""

    def __init__(self, upstream: int) -> None:
        self.upstream, self.port = upstream, free_port()
        self.lock, self.seen = threading.Lock(), list[str]()
        self.url = f"http://127.0.0.1:{self.port}"
        self.heal()

    def fault(self, mode: str, wanted: str = ".*", *, times: int = 1) -> None:
        """`mode`: dropped (before the server sees it), cut (after), slow, 500."""
        self.mode, self.wanted, self.left = mode, wanted, times

    def refuse(self) -> None:
        """Nobody listens."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def heal(self) -> None:
        self.fault("", times=0)
        self.waiting = threading.Event()
        if getattr(self, "server", None) is None:
            proxy = self

            class Handler(http.server.BaseHTTPRequestHandler):
                def handle_one_request(self) -> None:
                    self.raw_requestline = self.rfile.readline(65537)
                    if self.raw_requestline and self.parse_request():
                        proxy.answer(self)
                    self.close_connection = True

            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
            threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def due(self, request: str) -> str:
        with self.lock:
            self.seen.append(request)
            if not self.left or not re.match(self.wanted, request):
                return ""
            self.left -= 1
            return self.mode

    def answer(self, asked: http.server.BaseHTTPRequestHandler) -> None:
        length = int(asked.headers.get("Content-Length") or 0)
        if "chunked" in (asked.headers.get("Transfer-Encoding") or ""):
            raise AssertionError("this proxy knows no chunks")
        body = asked.rfile.read(length)
        waiting, mode = self.waiting, self.due(f"{asked.command} {asked.path}")
        if mode == "dropped":
            return
        status, headers, content = 500, list[tuple[str, str]](), b"it is broken"
        if mode != "500":
            upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
            kept = {k: v for k, v in asked.headers.items() if k.lower() != "connection"}
            upstream.request(asked.command, asked.path, body=body, headers=kept)
            got = upstream.getresponse()
            status, headers, content = got.status, got.getheaders(), got.read()
            upstream.close()
        if mode == "slow":
            waiting.wait(PATIENCE * 3)
        if mode in ("cut", "slow"):
            return
        hop = {"connection", "transfer-encoding", "content-length", "keep-alive"}
        asked.send_response_only(status)
        for name, value in headers:
            if name.lower() not in hop:
                asked.send_header(name, value)
        asked.send_header("Content-Length", str(len(content)))
        asked.send_header("Connection", "close")
        asked.end_headers()
        asked.wfile.write(content)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def upstream(tmp_path_factory) -> Iterator[int]:
    """A real `mlflow server` on SQLite; it takes ten seconds to start."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    words = ["server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    words += ["--artifacts-destination", str(folder / "files")]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [str(Path(sys.executable).parent / "mlflow"), *words],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        ends = time.monotonic() + 180
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < ends
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")
def only_proxy(upstream) -> Iterator[Proxy]:
    made = Proxy(upstream)
    yield made
    made.waiting.set()
    made.refuse()


@pytest.fixture
def proxy(only_proxy, monkeypatch) -> Iterator[Proxy]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE))
    monkeypatch.setattr(transport, "_PAUSES", (0.05, 0.1))
    only_proxy.heal()
    yield only_proxy
    only_proxy.waiting.set()
    only_proxy.heal()


@pytest.fixture(scope="module")
def registry(only_proxy, tmp_path_factory) -> MlflowRegistry:
    lock = str(tmp_path_factory.mktemp("lock") / "lock")
    return MlflowRegistry(tracking_uri=only_proxy.url, artifacts="", lock=lock)


@pytest.fixture
def model(request) -> str:
    return re.sub(r"\W", "_", request.node.name)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    from lightgbm import LGBMClassifier

    x = np.random.default_rng(0).normal(size=200)
    rows = pa.table({"x": x, "y": (x > 0).astype("int8")})
    return fit.pack(fit.fit(LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1), rows, ["x"], "y"))


def log(registry: MlflowRegistry, model: str, files: Any) -> Any:
    return registry.log(
        model,
        files,
        recipe="r",
        parameters={"n": 1},
        metrics={"rows": 1.0},
        tags={"mlct.reason": "test"},
        datasets={"train": "d" * 64},
        documents={"recipe.json": "{}"},
        requirements=["lightgbm"],
    )


def held(registry: MlflowRegistry, model: str, files: Any) -> list[int]:
    """The versions of a model; each is whole."""
    versions = registry.find(model, "r")
    for version in versions:
        assert registry.artifact(model, version.version) == fit.artifact_digest(files)
        assert registry.client.get_run(version.run_id).info.status == "FINISHED"
    return [v.version for v in versions]


FAULTS = ["dropped", "500", "cut", "slow"]


@pytest.mark.parametrize(
    ("where", "mode"),
    [
        (CREATE_RUN, "cut"),
        (UPLOAD, "dropped"),
        (UPLOAD, "500"),
        (UPLOAD, "slow"),
        (MODEL, "cut"),
        (REGISTER, "dropped"),
        (REGISTER, "500"),
        (REGISTER, "cut"),
        (REGISTER, "slow"),
        (MOVE, "dropped"),
        (MOVE, "cut"),
    ],
)
def test_logging_survives_one_fault_anywhere_with_one_whole_version(
    registry, model, files, proxy, mode, where
):
    registry.alias(model, "production")  # connects
    proxy.fault(mode, where)
    if (where, mode) == (REGISTER, "dropped"):
        # Whether it arrived nobody knows: to send it again could make a second version.
        with pytest.raises(RegistryError, match=f"log a version of {model}"):
            log(registry, model, files)
        assert held(registry, model, files) == []
    assert log(registry, model, files).version == 1
    assert proxy.left == 0
    assert held(registry, model, files) == [1]
    assert registry.alias(model, "challenger") == 1


@pytest.mark.parametrize(
    ("where", "mode"),
    [(CREATE_RUN, "500"), (INPUTS, "dropped"), (UPLOAD, "500"), (REGISTER, "500")],
)
def test_logging_that_cannot_succeed_leaves_no_version(registry, model, files, proxy, mode, where):
    proxy.fault(mode, where, times=100)
    began = time.monotonic()
    with pytest.raises(RegistryError, match=f"log a version of {model}"):
        log(registry, model, files)
    assert time.monotonic() - began < 60
    proxy.heal()
    assert held(registry, model, files) == []
    assert log(registry, model, files).version == 1


@pytest.fixture
def logged(registry, model, files) -> MlflowRegistry:
    log(registry, model, files)
    registry.set_alias(model, "production", 1)
    return registry


@pytest.mark.parametrize("mode", FAULTS)
def test_one_fault_does_not_disturb_reads_and_alias_moves(logged, model, files, proxy, mode):
    log(logged, f"{model}_", files)
    for where, ask, right in (
        (READ, lambda: logged.alias(model, "production"), 1),
        (MOVE, lambda: logged.set_alias(f"{model}_", "production", 1), None),
        (DOWNLOAD, lambda: logged.artifact(model, 1), fit.artifact_digest(files)),
    ):
        proxy.fault(mode, where)
        assert ask() == right
        assert proxy.left == 0
    assert logged.standing(f"{model}_", "production") == slots.Standing(alias=1, pointed=1)


@pytest.mark.parametrize("mode", ["refused", "500", "slow", "cut"])
def test_what_lasts_is_a_clear_error_in_bounded_time(logged, model, files, proxy, mode):
    log(logged, model, files)
    asked = {
        READ: lambda: logged.alias(model, "production"),
        MOVE: lambda: logged.set_alias(model, "production", 2),
        DOWNLOAD: lambda: logged.artifact(model, 1),
    }
    for where in [READ] if mode == "slow" else asked:
        if mode == "refused":
            proxy.refuse()
        else:
            proxy.fault(mode, where, times=100)
        began = time.monotonic()
        with pytest.raises(RegistryError, match=rf"(?s)MLflow could not .*{model}.*TRACKING_URI"):
            asked[where]()
        assert time.monotonic() - began < 30  # MLflow's own retries take minutes
        proxy.heal()
    # Cut after the write: it is there. Else nothing moved.
    assert logged.alias(model, "production") == (2 if mode == "cut" else 1)


def test_every_write_is_sent_at_most_as_often_as_we_say(logged, model, proxy):
    proxy.fault("500", REGISTER, times=100)
    proxy.seen.clear()
    with pytest.raises(RegistryError), reported("register it"):
        logged._register(model, "models:/m-1", "run", {"mlct.recipe": "r"})
    assert len([s for s in proxy.seen if re.match(REGISTER, s)]) == 3


def test_the_settings_of_mlflow_are_ours_only_while_we_ask(logged, model, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    inside = []
    read = type(logged.client).get_registered_model
    names = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")

    def spy(*words: Any) -> Any:
        inside.append([os.environ.get(n) for n in names])
        return read(*words)

    monkeypatch.setattr(type(logged.client), "get_registered_model", spy)
    threads = [threading.Thread(target=logged.alias, args=(model, "production")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [["0", "10"]] * 4
    assert [os.environ.get(n) for n in names] == ["5", None]


def behind(world: Any, proxy: Proxy, monkeypatch: Any) -> Any:
    """The world, its MLflow the server behind the proxy."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)  # for the command
    world.home = Home(root=str(world.root), tracking_uri=proxy.url)
    world.declare()
    return world


@pytest.mark.parametrize("down_after", [False, True], ids=["answer lost", "and down after it"])
def test_a_retried_training_makes_no_second_version(
    world, trips, proxy, monkeypatch, why, model, down_after
):
    world.declare(name=f"late{int(down_after)}")
    behind(world, proxy, monkeypatch)
    world.feed(trips())
    world.home.registry.client  # noqa: B018  connects
    proxy.fault("cut", REGISTER)
    if down_after:
        due = proxy.due

        def then_down(request: str) -> str:
            mode = due(request)
            if mode == "cut":
                proxy.fault("dropped", times=10_000)
            return mode

        monkeypatch.setattr(proxy, "due", then_down)
        done = world.retrain()
        assert not done.success
        assert "RegistryError" in why(done)
        assert world.records("training") == []
        monkeypatch.setattr(proxy, "due", due)
        proxy.heal()
    done = world.retrain()
    assert done.success, why(done)
    assert world.versions() == 1
    assert [t["version"] for t in world.records("training")] == [1]
    assert world.home.registry.alias(world.spec.name, "challenger") == 1


def test_a_rollback_works_while_mlflow_is_down_and_the_alias_catches_up(
    succeeded, proxy, monkeypatch, files
):
    world = behind(succeeded, proxy, monkeypatch)
    for _ in range(2):
        log(world.home.registry, "late", files)
    world.home.registry.set_alias("late", "production", 2)
    with mlct.load_live("late", home=world.home, refresh=None) as live:
        assert live.version == 2
        proxy.refuse()
        began = time.monotonic()
        code, text, error = world.mlct("rollback", "late", "--reason", "bad", "--yes")
        assert (code, "MLflow stayed behind" in text) == (0, True), error
        assert time.monotonic() - began < 30
        assert live.refresh()
        assert live.version == 1
    proxy.heal()
    assert world.home.registry.alias("late", "production") == 2
    code, text, error = world.mlct("reconcile", "late")
    assert (code, "points at version 1 again" in text) == (0, True), error
    assert "by hand" not in text
