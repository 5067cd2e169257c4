"""The command `serve`: the API as a process."""

from __future__ import annotations

import ipaddress
import logging
import resource
import socket
from contextlib import nullcontext
from typing import Any

import click
import uvicorn
from fastapi import FastAPI

from workers.entrypoints.api.app import Opening, application
from workers.entrypoints.api.connections import Tally, protocol
from workers.entrypoints.api.identity import Doorkeeper, ticket_key
from workers.entrypoints.api.who import EverybodyMay
from workers.entrypoints.cli_common import Failed, Misused, config_option, settings_of
from workers.entrypoints.settings import Settings

log = logging.getLogger("cutover.api")

BACKLOG = 1024


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
    serve(settings, insecure_dev, host, port)


def opening(settings: Settings, host: str, insecure_dev: bool) -> Opening:
    """Who keeps the door. Raises Misused when nobody could be known."""
    if insecure_dev:
        if not loopback(host):
            raise Misused(f"--insecure-dev asks nobody who they are: it listens on loopback only, not on {host}")
        log.warning("--insecure-dev: everybody who reaches %s may start and cancel a cutover", host)
        return lambda: nullcontext(EverybodyMay())
    api = settings.api
    if api.identity is None and api.service_accounts is None:
        raise Misused(
            "settings name no api.identity and no api.service_accounts: nobody could be known.\n"
            "(--insecure-dev serves without, on loopback only)"
        )
    try:
        ticket_key(settings)
    except ValueError as error:
        raise Misused(str(error)) from None
    return lambda: Doorkeeper.open(settings)


def loopback(host: str) -> bool:
    """Is this address reachable from this machine only? A name counts when all it stands for is."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in found)


def serve(settings: Settings, insecure_dev: bool, host: str, port: int) -> None:
    """Until SIGTERM or Ctrl-C. Ends with 1 when the address is taken."""
    door = opening(settings, host, insecure_dev)
    _room_for_connections()
    try:
        listener = listening(host, port)
    except OSError as error:
        raise Failed(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    with listener:
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        click.echo(f"http://{shown}:{address[1]}")
        server(settings, door, insecure=insecure_dev).run(sockets=[listener])


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
        listener.listen(BACKLOG)  # whoever reads the address may come at once
    except OSError:
        listener.close()
        raise
    return listener


class Server(uvicorn.Server):
    """uvicorn's; readers of events are sent home before it waits for the end of what is under way."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if isinstance(app := self.config.app, FastAPI):
            app.state.readers.closing.set()
        await super().shutdown(sockets)


def server(settings: Settings, door: Opening, *, insecure: bool) -> Server:
    """Ready to run."""
    tally = Tally()
    app = application(settings, door, tally)
    app.state.insecure = insecure
    limits = settings.api.limits
    options: dict[str, Any] = {
        "log_config": None, "access_log": False, "server_header": False, "lifespan": "on", "loop": "asyncio",
        "http": protocol(limits, tally), "ws": "none", "proxy_headers": False, "backlog": BACKLOG,
        "h11_max_incomplete_event_size": limits.headers, "timeout_keep_alive": 30, "timeout_graceful_shutdown": 5,
    }  # fmt: skip
    return Server(uvicorn.Config(app, **options))


def _room_for_connections() -> None:
    """As many open files as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
