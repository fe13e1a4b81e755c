"""`mlct notify`: who is told, what is missing, and a test that reaches everybody."""

import json
from pathlib import Path

import pytest

from mlct.cli import main
from mlct.cli import notify as command
from mlct.errors import NotifyError


class Channel:
    name, tags = "test#1", frozenset({"high"})

    def __init__(self, error: NotifyError | None = None) -> None:
        self.error, self.got = error, list[str]()

    def send(self, event) -> None:
        if self.error:
            raise self.error
        self.got.append(f"{event.action} {event.incident.kind} {event.key}")


@pytest.fixture
def run(tmp_path: Path, capsys):
    def answer(*words: str) -> tuple[int, str, str]:
        code = main(["notify", *words, "--home", str(tmp_path)])
        return (code, *capsys.readouterr())

    return answer


def test_without_a_channel_it_is_refused(run):
    code, _, error = run()
    assert code == 1
    assert "nobody is told of incidents. Set MLCT_PAGERDUTY_KEY" in error


def test_channels_are_listed_without_their_secrets(run, monkeypatch):
    monkeypatch.setenv("MLCT_PAGERDUTY_KEY", "k" * 32)
    monkeypatch.setenv("MLCT_NOTIFY", "high=mailto://me:secret@example.org")
    code, text, _ = run()
    assert code == 0
    assert [line.split()[1:] for line in text.splitlines()] == [["TAKES"], ["page"], ["high"]]
    assert "secret" not in text
    assert "kkk" not in text
    assert json.loads(run("--json")[1])["missing"] == []


def test_a_test_reaches_everybody_and_ends_what_it_opened(run, monkeypatch):
    channel = Channel()
    monkeypatch.setattr(command, "channels", lambda home: [channel])
    code, text, _ = run("--test")
    assert (code, text.splitlines()[1].split()) == (0, ["test#1", "took", "it"])
    (first, last) = channel.got
    assert (first.split()[:2], last.split()[:2]) == (["trigger", "test"], ["resolve", "test"])
    assert first.split()[2] == last.split()[2]


def test_a_test_that_did_not_arrive_is_refused(run, monkeypatch):
    good, bad = Channel(), Channel(NotifyError("answered 403"))
    bad.name = "test#2"
    monkeypatch.setattr(command, "channels", lambda home: [bad, good])
    code, _, error = run("--test")
    assert code == 1
    assert "test#2 did not take the test" in error
    assert "answered 403" in error
    assert good.got
