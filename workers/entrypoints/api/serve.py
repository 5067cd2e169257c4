"""The command `serve`: the API as a process."""

from __future__ import annotations

import ipaddress
import logging
import os
import resource
import socket
from typing import Any

import click
import uvicorn

from workers.entrypoints.api.app import application
from workers.entrypoints.api.who import Doorman, EverybodyMay
from workers.entrypoints.cli_common import Failed, Misused, config_option, settings_of
from workers.entrypoints.settings import Settings

log = logging.getLogger("cutover.api")


@click.command("serve", short_help="Serve the HTTP API and the console card.")
@click.option("--host", help="Address to listen on. Default: api.host of the settings (127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: api.port of the settings (8080); 0 takes any.")
@click.option("--insecure-dev", is_flag=True, help="Ask nobody who they are. Loopback only; for a rehearsal.")
@config_option
@click.pass_context
def command(ctx: click.Context, host: str | None, port: int | None, insecure_dev: bool) -> None:
    """Serve the HTTP API, its live events, and the console card at /.

    Any number of processes may serve: each computes what it shows from the log. Without `api.identity` in the
    settings nobody can be known, and nothing is served; --insecure-dev says aloud that nobody is asked.

    \b
    Examples
      cutover serve
      cutover serve --insecure-dev --port 8080     on one's own machine: http://127.0.0.1:8080/
    """
    from workers.entrypoints.cli import start_logging

    settings = settings_of(ctx)
    start_logging(settings)
    host = host or settings.api.host
    port = settings.api.port if port is None else port
    serve(settings, _doorman(settings, host, insecure_dev), host, port)


def _doorman(settings: Settings, host: str, insecure_dev: bool) -> Doorman:
    """Raises Misused when nobody could be known."""
    if insecure_dev:
        if not loopback(host):
            raise Misused(f"--insecure-dev asks nobody who they are: it listens on loopback only, not on {host}")
        log.warning("--insecure-dev: everybody who reaches %s may start and cancel a cutover", host)
        return EverybodyMay()
    raise Misused("settings name no api.identity: nobody could be known. (--insecure-dev serves without, on loopback)")


def loopback(host: str) -> bool:
    """Is this address reachable from this machine only? A name counts when all it stands for is."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in found)


def serve(settings: Settings, doorman: Doorman, host: str, port: int) -> None:
    """Until SIGTERM or Ctrl-C. Ends with 1 when the address is taken."""
    _room_for_connections()
    try:
        listener = listening(host, port)
    except OSError as error:
        raise Failed(f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from None
    with listener:
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        click.echo(f"http://{shown}:{address[1]}")
        uvicorn.Server(configured(settings, doorman)).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by every connection: else the kernel keeps megabytes for each reader that does not read.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def configured(settings: Settings, doorman: Doorman) -> uvicorn.Config:
    """How uvicorn runs it."""
    options: dict[str, Any] = {
        "log_config": None, "access_log": False, "server_header": False, "date_header": True, "lifespan": "on",
        "loop": "asyncio", "ws": "none", "proxy_headers": False, "backlog": 1024,
        "timeout_keep_alive": 30, "timeout_graceful_shutdown": 5,
    }  # fmt: skip
    return uvicorn.Config(application(settings, doorman), **options)


def _room_for_connections() -> None:
    """As many open files as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
