"""Commands that read along: watch and log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console

from events import export, flow
from events.types import KINDS
from workers.entrypoints import asking, cli_remote, printing, watching
from workers.entrypoints.cli_common import Failed, config_option, output_option, run, settings_of
from workers.entrypoints.cli_remote import Remote, api_options, remote_of
from workers.entrypoints.settings import Settings


@click.command(short_help="Follow the cutover live.")
@click.option(
    "--from-start/--from-now", default=False, help="Show what has happened before, too; a run that ended counts."
)
@click.option("--forever", is_flag=True, help="Stay when the run ends, for the next one.")
@click.option("--plain", is_flag=True, help="Lines instead of a table; always so when the output is no terminal.")
@api_options
@config_option
@click.pass_context
def watch(
    ctx: click.Context, from_start: bool, forever: bool, plain: bool, api: str | None, token_file: Path | None
) -> None:
    """Follow the cutover live: eight steps, percent, bytes, the hold's countdown, errors.

    Follows the active run, or waits for the next one, and ends with it: exit 0 when it completed, 1 when it failed
    or was cancelled. A broker that restarts is waited for; nothing is missed.

    \b
    Examples
      cutover watch
      cutover watch --from-start --plain | tee cutover.txt
      cutover watch --api https://cutover.sovereign.example --token-file token
    """
    whence = remote_of(api, token_file) or settings_of(ctx)
    watch_run(whence, from_start=from_start, once=not forever, plain=plain)


def watch_run(whence: Settings | Remote, *, from_start: bool, once: bool, plain: bool) -> None:
    """Watch to the end. Ends with 1 when the run did not succeed."""
    console = Console(highlight=False)
    if isinstance(whence, Remote):
        state = run(cli_remote.watch(whence, console, from_start=from_start, once=once, plain=plain))
    else:
        state = run(watching.watch(whence.nats, console, from_start=from_start, once=once, plain=plain))
    console.print(printing.verdict(state), soft_wrap=True, markup=False, emoji=False)
    if state.run is None or state.run.phase != "succeeded":
        raise click.exceptions.Exit(Failed.exit_code)


def _slug(_ctx: click.Context, _param: click.Parameter, word: str | None) -> str | None:
    """A step by slug or number."""
    if word is None:
        return None
    step = flow.find(word)
    if step is None:
        raise click.BadParameter(f"no step {word!r}; there are 1-{len(flow.STEPS)}: {', '.join(flow.SLUGS)}")
    return step.slug


@click.command(short_help="Print or export the log.")
@click.option("--run", "run_id", metavar="ID", help="Only events of this run.")
@click.option("--step", metavar="STEP", callback=_slug, help="Only events of this step (slug or number).")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(sorted(KINDS)), help="Only this kind; give it again.")
@click.option(
    "--export", "file", metavar="FILE", type=click.Path(path_type=Path), help="Write JSON lines; `-`: stdout."
)
@output_option
@config_option
@click.pass_context
def log(
    ctx: click.Context, run_id: str | None, step: str | None, kinds: tuple[str, ...], file: Path | None, output: str
) -> None:
    """Print the log: every request, trigger, fact and rejection, oldest first.

    An export has one message a line, its bytes unchanged; `cutover verify FILE` follows its chain without a broker.
    A filtered export is for reading only: its chain has gaps.

    \b
    Examples
      cutover log
      cutover log --step harbor-prewarm --kind step.failed
      cutover log --export log.jsonl && cutover verify log.jsonl
      cutover log --output json | jq -r 'select(.event.type | test("rejected")) | .event.data.reason'
    """
    settings = settings_of(ctx)
    if file is None and output == "json":
        file = Path("-")
    count = run(_log(settings, run_id, step, kinds, file))
    if file is not None and str(file) != "-":
        click.echo(f"{count} messages written to {file}")


async def _log(
    settings: Settings, run_id: str | None, step: str | None, kinds: tuple[str, ...], file: Path | None
) -> int:
    everything = not (run_id or step or kinds)
    count = 0
    async with asking.listening(settings) as stream:
        with _sink(file) as sink:
            async for entry in asking.messages(stream):
                event = asking.decoded(entry)
                wanted = everything or (
                    event is not None and printing.selected(event, run=run_id, step=step, kinds=kinds)
                )
                if not wanted:
                    continue
                count += 1
                if sink is not None:
                    sink.write(export.line(entry) + b"\n")
                elif event is not None:
                    click.echo(printing.line(event, entry.seq))
                else:
                    click.echo(f"{entry.seq:>6} -------- {entry.subject}: not an event ({len(entry.raw)} bytes)")
    return count


@contextlib.contextmanager
def _sink(file: Path | None) -> Iterator[BinaryIO | None]:
    """Where lines go; a file takes its name only when it is whole."""
    if file is None:
        yield None
    elif str(file) == "-":
        yield sys.stdout.buffer
    else:
        part = file.with_name(f".{file.name}.part")
        try:
            with part.open("wb") as sink:
                yield sink
        except OSError as error:
            raise Failed(f"cannot write {file}: {error.strerror}") from None
        part.replace(file)
