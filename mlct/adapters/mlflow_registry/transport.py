"""How MLflow is asked: bounded in time, again where asking twice is safe, with errors that say so.

MLflow's own retries take minutes and repeat every POST, so that one lost answer can make two
versions. Here they are off; what is safe to repeat is repeated by `again`.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from mlct.errors import RegistryError

T = TypeVar("T")

#: Seconds for one request, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set.
TIMEOUT = 10
#: No attempt begins later than this, in seconds.
WITHIN = 15.0
_PAUSES = (0.2, 1.0)
_TRANSIENT = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
}
#: What the HTTP library calls an answer that is an error, and a connection that was refused.
_ANSWERED = {"RetryError", "NewConnectionError"}

#: User and password of a URL: all up to its last @, since a password may hold one.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/'\"]+(?=@)")

_lock = threading.Lock()
_inside = 0
_before: dict[str, str | None] = {}


@contextmanager
def bounded() -> Iterator[None]:
    """MLflow's HTTP settings while we ask, and what they were afterwards; threads may overlap."""
    global _inside
    with _lock:
        if not _inside:
            ours: Mapping[str, str] = {
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
                "MLFLOW_HTTP_REQUEST_TIMEOUT": os.environ.get(
                    "MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT)
                ),
            }
            _before.update({name: os.environ.get(name) for name in ours})
            os.environ.update(ours)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for name, value in _before.items():
                    os.environ.pop(name, None)
                    if value is not None:
                        os.environ[name] = value


@contextmanager
def reported(doing: str) -> Iterator[None]:
    """Around whatever asks MLflow: bounded, and any failure is a RegistryError."""
    from mlflow.exceptions import MlflowException

    try:
        with bounded():
            yield
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"MLflow could not {doing}: {shown(error)}",
            expected="a reachable tracking server with this model",
            fix="Check MLFLOW_TRACKING_URI and the server's log",
            code=getattr(error, "error_code", ""),
        ) from cause(error)


def shown(text: object) -> str:
    """Text without the credentials of any URL in it."""
    return _CREDENTIALS.sub("***", str(text))


def cause(error: BaseException) -> BaseException | None:
    """The error as a cause to be shown with ours; None if it, or its own causes, tell a secret."""
    return error if all(shown(e) == str(e) for e in _chain(error)) else None


def again(ask: Callable[[], T]) -> T:
    """What asking gives, asked up to three times; only for what may safely happen twice."""
    began = time.monotonic()
    for pause in _PAUSES:
        try:
            return ask()
        except Exception as error:
            if not transient(error) or time.monotonic() - began + pause > WITHIN:
                raise
            time.sleep(pause)
    return ask()


def transient(error: BaseException) -> bool:
    """Whether it may be otherwise in a second."""
    code = getattr(error, "error_code", None)
    gone = isinstance(error, FileNotFoundError)
    return code in _TRANSIENT or (code is None and isinstance(error, OSError) and not gone)


def settled(error: BaseException) -> bool:
    """Whether a failed request is over: refused or answered, not lost on its way or still at it."""
    chain = _chain(error)
    lost = any(isinstance(e, OSError) for e in chain)
    return not lost or any(type(e).__name__ in _ANSWERED for e in chain)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what led to it."""
    chain, step = list[BaseException](), error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__  # type: ignore[assignment]
    return chain
