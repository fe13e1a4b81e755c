"""PagerDuty and the routes of apprise: what is sent, what counts as taken, what stays secret."""

import json
from typing import Any

import pytest

from mlct.adapters.home import Home
from mlct.adapters.outbox import Event, events
from mlct.adapters.pager import BODY, EVENTS, PagerDuty, Route, channels, text
from mlct.errors import NotifyError
from mlct.release.incident import close_incident, incidents, open_incident, step
from mlct.release.ledger import Ledger

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def told(tmp_path):
    """`told(...)`: the events of one incident; the last words change what it is."""

    def make(*, steps: int = 1, wide: int = 4, closed: bool = False, **how: Any) -> list[Event]:
        ledger = Ledger(tmp_path / "ledger.db")
        says = {"model": "m", "slot": "production", "kind": "rollback", "episode": "version 2"}
        says |= {"summary": "it is bad", "severity": "high", "pages": True, "actor": "test"}
        timeline = [step(ledger, f"{n} " + "x" * wide) for n in range(steps)]
        opened = open_incident(ledger, **(says | {"timeline": timeline} | how))
        if closed:
            close_incident(ledger, opened, summary="mended", actor="test")
        return events(incidents(ledger, "m"))

    return make


@pytest.fixture
def pager(paging_service):
    return PagerDuty(key=KEY, url=paging_service.url, timeout=0.5)


def test_an_event_says_what_where_and_how_bad(told, pager, paging_service):
    for event in told(closed=True):
        pager.send(event)
    trigger, resolve = paging_service.got
    assert (trigger["routing_key"], trigger["event_action"]) == (KEY, "trigger")
    assert trigger["dedup_key"] == resolve["dedup_key"] == "mlct/m/production/rollback/version 2"
    payload = trigger["payload"]
    assert (payload["summary"], payload["severity"]) == ("m: it is bad", "critical")
    assert (payload["source"], payload["class"]) == ("mlct/m/production", "rollback")
    assert payload["custom_details"]["timeline"][0]["what"] == "0 xxxx"
    assert resolve["event_action"] == "resolve"
    assert "payload" not in resolve


def test_an_event_stays_within_the_limits(told, pager):
    (event,) = told(summary="s" * 5000, steps=2000, wide=1000)
    body = pager.body(event)
    payload = json.loads(body)["payload"]
    assert len(body) <= BODY
    assert (len(payload["summary"]), payload["summary"][-1]) == (1024, "…")
    kept = payload["custom_details"]["timeline"]
    assert len(kept) > 100
    assert kept[-1]["what"].startswith("1999 ")  # the newest say most


def test_one_step_that_is_too_long_is_left_out(told, pager):
    (event,) = told(wide=600_000)
    assert json.loads(pager.body(event))["payload"]["custom_details"]["timeline"] == []


@pytest.mark.parametrize(
    ("status", "final"),
    [
        (200, False),
        (302, False),
        (400, True),
        (403, False),
        (413, True),
        (429, False),
        (503, False),
    ],
)
def test_only_202_is_success_and_only_a_bad_event_is_final(
    told, pager, paging_service, status, final
):
    paging_service.answers = [(status, {"Retry-After": "17", "Location": paging_service.url})]
    (event,) = told()
    with pytest.raises(NotifyError, match=str(status)) as refused:
        pager.send(event)
    assert (refused.value.final, len(paging_service.got)) == (final, 1)
    assert refused.value.wait == (0 if status == 200 else 17)


def test_what_cannot_be_reached_is_tried_again(told):
    (event,) = told()
    with pytest.raises(NotifyError, match="cannot be reached") as refused:
        PagerDuty(key=KEY, url="http://127.0.0.1:9/", timeout=0.5).send(event)
    assert not refused.value.final


def test_the_key_is_shown_nowhere(told, pager, paging_service):
    from mlct.defs.resources import MlctHome

    secret = {"pagerduty_key": KEY, "notify": f"mailto://u:{KEY}@example.org"}
    home = Home(root="x", **secret)
    paging_service.answers = [(400, {})]
    paging_service.text = f'{{"errors": ["no such key {KEY}"]}}'
    (event,) = told()
    with pytest.raises(NotifyError) as refused:
        pager.send(event)
    shown = [
        str(refused.value),
        repr(pager),
        pager.name,
        repr(home),
        repr(MlctHome(root="x", **secret)),
    ]
    shown += [f"{c!r} {c.name}" for c in channels(home)]
    assert all(KEY not in said for said in shown)
    assert "no such key ..." in shown[0]


@pytest.mark.parametrize("key", ["", KEY[:-1], KEY + "0", KEY[:-1] + "\n", "ü" * 32])
def test_a_key_that_is_none_is_refused_without_showing_it(key):
    with pytest.raises(NotifyError, match=f"it has {len(key)} characters") as refused:
        PagerDuty(key=key)
    assert not key or key not in str(refused.value)


@pytest.mark.parametrize("url", ["http://example.org/v2/enqueue", "file:///etc/passwd", "x"])
def test_a_key_goes_over_tls_only(url):
    with pytest.raises(NotifyError, match="an https:// URL"):
        PagerDuty(key=KEY, url=url)


def test_channels_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("MLCT_PAGERDUTY_KEY", KEY)
    monkeypatch.setenv("MLCT_NOTIFY", "high,drill=slack://a/b/c\nmailto://me:secret@example.org")
    pager, slack, mail = channels(Home.from_environment())
    assert (pager.url, slack.tags, mail.tags) == (EVENTS, {"high", "drill"}, frozenset())
    monkeypatch.setenv("MLCT_NOTIFY", "")
    monkeypatch.setenv("MLCT_PAGERDUTY_KEY", "")
    assert channels(Home.from_environment()) == []


def test_routes_may_be_in_a_file(tmp_path):
    path = tmp_path / "routes"
    path.write_text("# people\n\nhigh=slack://a/b/c\n  page=json://example.org/x\n")
    assert [c.tags for c in channels(Home(root="x", notify=str(path)))] == [{"high"}, {"page"}]
    with pytest.raises(NotifyError, match="nor a file that can be read"):
        channels(Home(root="x", notify=f"{path}s"))


def test_a_bad_route_is_named_by_its_number_only():
    with pytest.raises(NotifyError, match="route 2 of MLCT_NOTIFY") as refused:
        channels(Home(root="x", notify="slack://a/b/c secret"))
    assert "secret" not in str(refused.value)
    with pytest.raises(NotifyError, match="two routes to slack#"):
        channels(Home(root="x", notify="low=slack://a/b/c high=slack://a/b/c"))


def test_another_password_is_the_same_channel_and_another_place_is_not():
    first, again, other = (
        Route(url=url).name
        for url in ("mailto://u:a@e.org/x", "mailto://u:b@e.org/x", "mailto://u:a@e.org/y")
    )
    assert first == again != other


def test_a_route_takes_what_has_one_of_its_tags(told):
    (event,) = told()
    for tags, takes in ({}, True), ({"high", "z"}, True), ({"page"}, True), ({"low"}, False):
        assert Route(url="json://h", tags=frozenset(tags)).takes(event) is takes
    assert event.tags == {"m", "production", "rollback", "high", "page"}


def test_apprise_sends_what_people_can_read(told, web_hook):
    for event in told(closed=True):
        Route(url=web_hook.url).send(event)
    first, last = web_hook.got
    assert (first["type"], last["type"]) == ("failure", "success")
    assert first["title"] == "m (production): rollback opened"
    assert "it is bad" in first["message"]
    assert last["title"] == "m (production): rollback closed"
    assert "mended" in last["message"]


def test_what_apprise_could_not_send_is_tried_again(told, web_hook):
    web_hook.answers = [(500, {})] * 9
    (event,) = told()
    with pytest.raises(NotifyError, match=r"json#\w+ did not take it") as refused:
        Route(url=web_hook.url).send(event)
    assert not refused.value.final
    with pytest.raises(NotifyError, match="knows no such URL"):
        Route(url="nosuch://x").send(event)


def test_without_the_extra_it_says_what_to_install(told, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(NotifyError, match=r"mlct\[notify\]"):
        Route(url="json://h").send(told()[0])


def test_a_message_is_not_longer_than_people_read(told):
    _, body = text(told(summary="s" * 5000, steps=50)[0])
    assert len(body.splitlines()) < 20
    assert "49 xxxx" in body
