"""The command `cutover`. Every exit code means one thing, so that scripts can ask.

Commands of other rooms are found by the entry point group `cutover.commands` (the sandbox's `rehearse`).
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Collection
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import anyio
import click

from events import flow
from workers.entrypoints import cli_asking, cli_watching
from workers.entrypoints.classes import CLASSES, Duties
from workers.entrypoints.cli_common import CONTEXT, config_option, run, settings_of
from workers.entrypoints.settings import Settings

if TYPE_CHECKING:
    from workers.adapters.cluster import Cluster
    from workers.entrypoints.node_agent import NodeAgentConfig, Publish

PLUGINS = "cutover.commands"
LAZY = {
    "audit": "workers.entrypoints.cli_audit",
    "plan": "workers.entrypoints.cli_plan",
    "certificate": "workers.entrypoints.cli_certificate",
    "serve": "workers.entrypoints.api.serve",
    "node-agent": "workers.entrypoints.node_agent",
    "canary": "workers.entrypoints.canary",
    "lift": "workers.entrypoints.lift",
}
"""Commands that are loaded only when they are called; the last ones are run by Pods of the cutover."""

EPILOG = """\b
Exit codes
  0  done, or complete
  1  failed, refused, or not complete
  2  wrong usage or settings; nothing was connected
  3  broker or cluster unreachable, or it refuses this identity
  4  integrity: a broken chain, a ConfigMap that is not what the log says, a stream that has drifted

\b
A first look, from a checkout and without any cluster
  cutover rehearse

\b
A real one
  export CUTOVER_CONFIG=/etc/cutover/settings.yaml
  cutover work &                    workers for all eight steps
  cutover request --watch           begin, and follow to the end
"""


class Commands(click.Group):
    """Our commands, and those that other rooms announce."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        announced = [point.name for point in entry_points(group=PLUGINS)]
        return [*super().list_commands(ctx), *announced, *LAZY]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if own := super().get_command(ctx, cmd_name):
            return own
        if module := LAZY.get(cmd_name):
            found: click.Command = import_module(module).command
            return found
        for point in entry_points(group=PLUGINS, name=cmd_name):
            try:
                announced: click.Command = point.load()
            except ModuleNotFoundError as error:
                if error.name != point.module and error.name != point.module.partition(".")[0]:
                    raise
                return None  # the image ships without the sandbox
            return announced
        return None


@click.group(cls=Commands, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(package_name="catalyst-cutover", message="cutover %(version)s")
@config_option
@click.pass_context
def main(ctx: click.Context) -> None:
    """Cut a Sovereign loose from the mothership, in eight steps, driven by events on a log.

    The log is the NATS JetStream stream CATALYST_CUTOVER. A cutover begins when somebody publishes
    catalyst.cutover.requested; workers do step after step and write every fact down. Everything that is
    shown (status, ConfigMap, live progress) is computed from that log.
    """
    ctx.obj = agent_connection(ctx)


@main.command(short_help="Run workers.")
@click.option("--class", "named", type=click.Choice(sorted(CLASSES)), help="What a Deployment of the chart does.")
@click.option("--steps", "words", metavar="LIST", help="Only these: slugs or numbers, comma-separated. Default: all.")
@click.option("--admission/--no-admission", default=True, show_default=True, help="Take requests and cancels.")
@click.option("--projector/--no-projector", default=True, show_default=True, help="Keep the status ConfigMap.")
@config_option
@click.pass_context
def work(ctx: click.Context, named: str | None, words: str | None, admission: bool, projector: bool) -> None:
    """Run workers until told to stop (SIGTERM or Ctrl-C).

    Any number of processes may serve the same steps: the log decides who does what. A broker that is away is
    waited for.

    \b
    Examples
      cutover work                                   everything in one process
      cutover work --steps 1-3 --no-projector        only the first three steps
      cutover work --steps egress-block-test         only the proof
      cutover work --class supply                    what needs the internet: steps 1 to 3
    """
    if named and (words or not admission or not projector):
        raise click.UsageError("--class says it all; give it alone")
    duties = (
        CLASSES[named]
        if named
        else Duties(steps_of(words), admission, projector, projector, projector, found=True, sign=True)
    )
    settings = settings_of(ctx)
    start_logging(settings)
    run(serve(settings, duties))


def steps_of(words: str | None) -> tuple[str, ...]:
    """`1-3,egress-block-test` -> slugs, in the order of the flow. Raises UsageError."""
    if words is None:
        return flow.SLUGS
    chosen: set[str] = set()
    for word in filter(None, (part.strip() for part in words.split(","))):
        first, dash, last = word.partition("-")
        if dash and (begin := flow.find(first)) and (end := flow.find(last)) and first.isdigit() and last.isdigit():
            numbers: Collection[str] = [str(number) for number in range(begin.number, end.number + 1)]
        else:
            numbers = [word]
        for each in numbers or [word]:
            step = flow.find(each)
            if step is None:
                raise click.UsageError(f"no step {each!r}; there are 1-{len(flow.STEPS)}: {', '.join(flow.SLUGS)}")
            chosen.add(step.slug)
    return tuple(slug for slug in flow.SLUGS if slug in chosen)


async def serve(settings: Settings, duties: Duties) -> None:
    """Work until a signal asks to stop; whatever is under way is left to be taken up again."""
    from workers.entrypoints import wiring
    from workers.entrypoints.health import Health

    log, health = logging.getLogger("cutover"), Health()
    async with health.at(settings.health.host, settings.health.port), anyio.create_task_group() as tasks:

        async def obey() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for number in signals:
                    log.info("%s: stopping", signal.Signals(number).name)
                    tasks.cancel_scope.cancel()
                    return

        tasks.start_soon(obey)
        await wiring.work(settings, duties, health=health, say=log.info)
        tasks.cancel_scope.cancel()


def start_logging(settings: Settings) -> None:
    """Log to stderr, with every secret that the settings name taken out."""
    from workers.entrypoints import logs
    from workers.entrypoints.settings import redactor

    logs.configure(settings.log_level, redactor(settings), settings.log_format)


def agent_connection(ctx: click.Context) -> Callable[[Any], Any]:
    """How the node agent gets its cluster and its way to report; nothing is opened before it asks."""

    @contextlib.asynccontextmanager
    async def connect(config: NodeAgentConfig) -> AsyncIterator[tuple[Cluster, Publish]]:
        from events.jetstream import JetStreamLog
        from events.log import LogUnavailable
        from schemas.nodes import NodeReport
        from workers.entrypoints import wiring
        from workers.entrypoints.health import Health
        from workers.errors import Wait
        from workers.inbox import publish_report

        settings = settings_of(ctx)
        start_logging(settings)
        say, health = logging.getLogger("cutover.node-agent").info, Health()
        async with (
            health.at(settings.health.host, settings.health.port),
            JetStreamLog.open(settings.nats, patient=True, say=say) as stream,
            wiring.cluster(settings) as cluster,
        ):
            health.ready = lambda: None if stream.connected else "the broker is away"

            async def publish(report: NodeReport) -> None:
                try:
                    await publish_report(stream, settings.sovereign.fqdn, report)
                except LogUnavailable as error:
                    raise Wait("LogUnavailable", str(error)) from None

            yield cluster, publish

    return connect


main.add_command(cli_asking.request)
main.add_command(cli_asking.cancel)
main.add_command(cli_asking.status)
main.add_command(cli_watching.watch)
main.add_command(cli_watching.log)
main.add_command(cli_asking.verify)
main.add_command(cli_asking.replay)


if __name__ == "__main__":
    main()
