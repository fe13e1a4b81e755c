"""Who is told of incidents: PagerDuty of what pages, and whatever apprise reaches by route."""

import http.client
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlct.adapters.home import Home
from mlct.adapters.outbox import Channel, Event
from mlct.data.digest import sha256
from mlct.errors import NotifyError

EVENTS = "https://events.pagerduty.com/v2/enqueue"
#: Limits of the Events API v2, in characters and in bytes.
SUMMARY, BODY = 1024, 512 * 1024
_SEVERITY = {"high": "critical", "medium": "error", "low": "warning"}
#: What they answer to an event that they will never take: not valid, too large.
_FINAL = (400, 413)
_ROUTE = re.compile(r"(?:(?P<tags>[\w.,-]+)=)?(?P<url>[a-z][a-z0-9+.-]*://\S+)", re.IGNORECASE)
_SHOWN = 10


def channels(home: Home) -> list[Channel]:
    """PagerDuty where there is a key, and the routes of `Home.notify`. Raises NotifyError.

    A route is `URL` or `TAG,TAG=URL`, with an apprise URL; without tags it takes all, with tags
    what has one of them (`Event.tags`). Routes are parted by white space, or are the lines of the
    file that is named instead, where `#` begins a comment.
    """
    found: list[Channel] = []
    if home.pagerduty_key:
        found.append(PagerDuty(key=home.pagerduty_key, url=home.pagerduty_url or EVENTS))
    text = home.notify
    if text and "://" not in text:
        try:
            text = Path(text).expanduser().read_text()
        except OSError as error:
            raise NotifyError(
                f"MLCT_NOTIFY names no routes, nor a file that can be read: {error}",
                expected="apprise URLs, or a file of them",
            ) from error
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for number, word in enumerate(" ".join(lines).split(), 1):
        parts = _ROUTE.fullmatch(word)
        if not parts:
            raise NotifyError(
                f"route {number} of MLCT_NOTIFY is none",  # it may hold a password
                expected="URL or TAG,TAG=URL, such as high=slack://TokenA/TokenB/TokenC",
            )
        tags = frozenset((parts["tags"] or "").split(",")) - {""}
        found.append(Route(url=parts["url"], tags=tags))
    names = [channel.name for channel in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise NotifyError(
            f"two routes to {', '.join(twice)}", expected="one, with the tags of both: a,b=URL"
        )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class PagerDuty:
    """PagerDuty's Events API v2, for what pages. `key` is the routing key of an integration.

    Another key is another channel: what is open is told to it again. Source:
    https://developer.pagerduty.com/docs/events-api-v2-overview
    """

    key: str = field(repr=False)
    url: str = EVENTS
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9A-Za-z]{32}", self.key):
            raise NotifyError(
                f"MLCT_PAGERDUTY_KEY is no routing key: it has {len(self.key)} characters",
                expected="the 32 letters and digits of an Events API v2 integration",
            )
        place = urlsplit(self.url)
        if place.scheme != "https" and place.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise NotifyError(f"MLCT_PAGERDUTY_URL is {self.url}", expected="an https:// URL")

    @property
    def name(self) -> str:
        return f"pagerduty#{sha256(self.key.encode())[:8]}"

    def takes(self, event: Event) -> bool:
        return event.pages

    def send(self, event: Event) -> None:
        """POST one event; only 202 is success. Raises NotifyError."""
        request = urllib.request.Request(
            self.url, self.body(event), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with _opener().open(request, timeout=self.timeout) as answer:
                status, asked, text = answer.status, "", answer.read(500)
        except urllib.error.HTTPError as error:
            with error:
                status, asked = error.code, error.headers.get("Retry-After") or ""
                text = b"" if status >= 500 else error.read(500)
        except (OSError, http.client.HTTPException) as error:
            raise NotifyError(
                f"PagerDuty cannot be reached: {error or type(error).__name__}"
            ) from (error)
        if status != 202:
            said = text.decode("utf-8", "replace").replace(self.key, "...").strip()
            raise NotifyError(
                f"PagerDuty answered {status} {said}".strip(),
                expected="202",
                final=status in _FINAL,
                wait=float(asked) if re.fullmatch("[0-9]{1,6}", asked) else 0.0,
            )

    def body(self, event: Event) -> bytes:
        """The event as JSON, within their limits: old steps of the timeline go first."""
        incident = event.incident
        content: dict[str, Any] = {
            "routing_key": self.key,
            "event_action": event.action,
            "dedup_key": event.key,
        }
        if event.action != "trigger":
            return json.dumps(content).encode()
        steps = list(incident.timeline)
        while True:
            details = {"incident": incident.name, "episode": incident.episode, "timeline": steps}
            payload = {
                "summary": cut(f"{incident.model}: {incident.summary}", SUMMARY),
                "source": f"mlct/{incident.model}/{incident.slot}",
                "severity": _SEVERITY[incident.severity],
                "timestamp": event.record.recorded_at,
                "component": incident.slot,
                "group": incident.model,
                "class": incident.kind,
                "custom_details": details,
            }
            made = json.dumps(content | {"client": "mlct", "payload": payload}).encode()
            if len(made) <= BODY:
                return made
            steps = steps[len(steps) // 2 + 1 :] if len(steps) > 1 else []


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the key is for one place, and a POST must not become a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Stay)


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Whatever one apprise URL reaches: Slack, Teams, e-mail and so on. Needs the extra `notify`.

    They know no deduplication key: what a crash sends again is there twice.
    """

    url: str = field(repr=False)
    tags: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        place = urlsplit(self.url)
        # Not the password: a short hash of a weak one would give it away.
        known = f"{place.scheme}://{place.username or ''}@{place.hostname}{place.path}"
        return f"{place.scheme}#{sha256(known.encode())[:8]}"

    def takes(self, event: Event) -> bool:
        return not self.tags or bool(self.tags & event.tags)

    def send(self, event: Event) -> None:
        """Send one message; apprise logs why it did not go. Raises NotifyError."""
        try:
            import apprise
        except ImportError as error:
            raise NotifyError(
                f"{self.name} needs the package apprise", fix="Install mlct[notify]"
            ) from error
        sender = apprise.Apprise()
        if not sender.add(self.url):
            raise NotifyError(
                f"apprise knows no such URL: route {self.name}",
                expected="one that `apprise` takes",
                fix="Correct it in MLCT_NOTIFY; the page of apprise lists the URL of each service",
            )
        bad = event.incident.severity == "high"
        kinds = {
            "trigger": apprise.NotifyType.FAILURE if bad else apprise.NotifyType.WARNING,
            "acknowledge": apprise.NotifyType.INFO,
            "resolve": apprise.NotifyType.SUCCESS,
        }
        title, body = text(event)
        if not sender.notify(title=title, body=body, notify_type=kinds[event.action]):
            raise NotifyError(f"{self.name} did not take it (apprise's log says why)")


def text(event: Event) -> tuple[str, str]:
    """Title and body for people."""
    incident = event.incident
    said = {"trigger": "opened", "acknowledge": "acknowledged", "resolve": "closed"}[event.action]
    if event.action == "trigger" and event.record != incident.opened:
        said = "pages now"
    steps = incident.timeline[-_SHOWN:]
    lines = [cut(incident.summary, SUMMARY), ""]
    lines += [cut(f"{s['at'][:19].replace('T', ' ')}  {s['what']}", SUMMARY) for s in steps]
    lines += ["", f"severity {incident.severity}, incident {incident.name[:12]}"]
    return f"{incident.model} ({incident.slot}): {incident.kind} {said}", "\n".join(lines)


def cut(said: str, longest: int) -> str:
    """At most so many characters, with an ellipsis where some are missing."""
    return said if len(said) <= longest else f"{said[: longest - 1]}…"
