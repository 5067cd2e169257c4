"""The embedded broker leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

HOLD = """
import anyio, sys
from pathlib import Path
from sandbox.broker import Broker

async def main():
    async with Broker.start(Path(sys.argv[1])) as broker:
        print(broker._process.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def test_it_ends_with_whoever_started_it_even_when_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert psutil.pid_exists(server)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 60
    while psutil.pid_exists(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(server)
