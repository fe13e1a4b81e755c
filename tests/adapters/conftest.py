"""Services on the loopback interface that take what mlct tells people."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Service:
    """Takes events as PagerDuty does: one open incident a key, `absorbed` what it knew already."""

    def __init__(self) -> None:
        self.got, self.open = list[Any](), set[str]()
        self.opened, self.kinds, self.absorbed = Counter[str](), Counter[str](), 0
        self.answers, self.text = list[tuple[int, dict[str, str]]](), "{}"
        self.before_answer: Callable[[], object] | None = None
        self.share, self.random, self.url = 0.0, random.Random(0), ""

    @property
    def failures(self) -> int:
        return self.kinds.total()

    def failing(self, share: float, *, seed: int) -> None:
        self.share, self.random = share, random.Random(seed)

    def fails(self) -> str:
        """How this call fails, if it does: before it is taken, or (`cut`, `timeout`) after."""
        if self.random.random() >= self.share:
            return ""
        kind = self.random.choice(["500", "429", "timeout", "cut"])
        self.kinds[kind] += 1
        return kind

    def take(self, event: Any) -> None:
        self.got.append(event)
        key, action = event.get("dedup_key"), event.get("event_action")
        if action == "trigger":
            self.absorbed += key in self.open
            self.opened[key] += key not in self.open
            self.open.add(key)
        elif action == "resolve":
            self.open.discard(key)


@contextmanager
def serving(service: Service, *, scheme: str, status: int) -> Iterator[Service]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kind = service.fails()
            if kind not in ("500", "429"):
                service.take(event)
            if service.before_answer:
                service.before_answer()
            if kind == "cut":
                self.close_connection = True
                return
            if kind == "timeout":
                time.sleep(0.3)
            code, headers = service.answers.pop(0) if service.answers else (status, {})
            self.send_response(int(kind) if kind.isdigit() else code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(service.text)))
            self.end_headers()
            self.wfile.write(service.text.encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who hung up
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    service.url = f"{scheme}://127.0.0.1:{server.server_port}/v2/enqueue"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def paging_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """PagerDuty, which fails as often as it is told."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Service(), scheme="http", status=202) as service:
        yield service


@pytest.fixture
def web_hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """What apprise posts JSON to."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Service(), scheme="json", status=200) as service:
        yield service
