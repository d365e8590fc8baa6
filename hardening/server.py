"""The program's own server, started for a check with a workspace of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

__all__ = ["Server", "serve"]

ROOT = Path(__file__).parents[1]
_START = 120.0  # seconds; torch alone takes several on a busy machine


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def memory(self) -> int:
        """The bytes of memory that only this process uses."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        fields = {line.split()[0]: line.split()[1] for line in lines[1:]}
        return 1024 * (int(fields["Private_Clean:"]) + int(fields["Private_Dirty:"]))


@contextmanager
def serve(folder: Path, env: dict[str, str] | None = None, script: str | Path = "app.py") -> Iterator[Server]:
    """Run a script's server with its workspace and log in a folder, until the block ends."""
    port = _free_port()
    log = folder / "streamlit.log"
    settings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NNGUIDE_HOME": str(folder / "workspace"),
        "STREAMLIT_SERVER_PORT": str(port),
        "STREAMLIT_SERVER_HEADLESS": "true",
        **(env or {}),
    }
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    with log.open("ab") as sink:
        process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=sink, stderr=subprocess.STDOUT)
    server = Server(f"http://127.0.0.1:{port}", log, process)
    try:
        _wait_until_healthy(server)
        yield server
        if (status := process.poll()) is not None:
            raise RuntimeError(f"The server ended by itself, with {status}:\n{log.read_text()[-2000:]}")
    finally:
        process.kill()
        process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: Server) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with urlopen(f"{server.url}/_stcore/health", timeout=2):  # noqa: S310 - started above
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"The server did not start:\n{server.log.read_text(errors='replace')}")
