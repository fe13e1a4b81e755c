"""A PostgreSQL server of one's own for tests and benchmarks: a temporary folder, a Unix socket.

with server() as postgres:
    url = postgres.fresh()
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Everybody has to give it, so that a test can look for it where no password belongs.
PASSWORD = "s3cret@mlct"


@dataclass(frozen=True)
class Server:
    """A running server; `folder` holds its socket."""

    folder: Path
    _numbers: Any = field(default_factory=itertools.count)
    _spare: list[str] = field(default_factory=list)

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        password = PASSWORD.replace("@", "%40")
        return f"postgresql://{user}:{password}@/{database}?host={self.folder}"

    def execute(self, sql: str, database: str = "postgres") -> None:
        """As the superuser, outside any transaction."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(sql)

    def fresh(self) -> str:
        """URL of an empty database: a new one, or one that was taken back."""
        if self._spare:
            return self._spare.pop()
        name = f"fresh_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def take_back(self, url: str) -> None:
        """Empty a database of its ledger for the next: cheaper than a new one."""
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute("DROP SCHEMA IF EXISTS mlct CASCADE")
        self._spare.append(url)


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps it out of PATH."""
    found = [Path(shutil.which("postgres") or "none"), *Path("/usr/lib/postgresql").glob("*/bin/*")]
    folders = {path.resolve().parent for path in found if path.name == "postgres"}
    whole = [folder for folder in folders if (folder / "initdb").exists()]
    return max(whole, key=lambda f: [int(n) for n in re.findall(r"\d+", str(f))], default=None)


@contextmanager
def server(*, durable: bool = False) -> Iterator[Server]:
    """Start one and stop it afterwards. Unless `durable`, it does not wait for the disk.

    PostgreSQL refuses to run as root: then it runs as nobody.
    """
    found = binaries()
    if found is None:
        raise FileNotFoundError("no PostgreSQL server is installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="mlct-postgres-"))
    secret = folder / "password"
    secret.write_text(PASSWORD)
    how: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL}
    if os.getuid() == 0:
        how |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
        for path in (folder, secret):
            shutil.chown(path, "nobody", "nogroup")
    options = ["-D", "data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(secret)]
    try:
        with (folder / "log").open("w") as log:
            made = [found / "initdb", *options, "-E", "UTF8", "--locale=C", "--no-sync"]
            subprocess.run(made, check=True, stderr=log, **how)
            settings = {
                "listen_addresses": "",
                "unix_socket_directories": folder,
                "fsync": durable,
                "shared_buffers": "32MB",
            }
            words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
            process = subprocess.Popen(
                [found / "postgres", "-D", "data", *words], stderr=log, **how
            )
            try:
                made_here = Server(folder)
                _wait_for(made_here, process)
                yield made_here
            finally:
                process.send_signal(signal.SIGQUIT)  # at once: nothing is to be kept
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(found: Server, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    end = time.monotonic() + 60
    while True:
        try:
            return found.execute("SELECT 1")
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.02)
