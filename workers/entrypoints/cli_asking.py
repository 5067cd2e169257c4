"""Commands that ask or tell once: request, cancel, status, verify, replay."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from events import export
from events.export import Finding, Rewritten
from events.fold import State
from events.picture import picture
from schemas import events as facts
from workers.autofire.rule import pending
from workers.entrypoints import asking, cli_remote, cli_watching, printing
from workers.entrypoints.asking import Answer, Comparison
from workers.entrypoints.cli_common import (
    Broken,
    Failed,
    config_option,
    output_option,
    run,
    settings_of,
)
from workers.entrypoints.cli_remote import Remote, api_options, remote_of
from workers.entrypoints.settings import Settings

_WAIT = 10.0  # seconds for an answer to a request
_PLANNED = 60.0  # seconds for one that makes the plan first
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="Ask for a cutover.")
@click.option("--operator", default=asking.operator_of_this_shell, show_default="you", help="Who asks, for the record.")
@click.option("--reason", help="Why, for the record.")
@click.option("--watch", "watching", is_flag=True, help="Follow the run to its end; exit 1 when it fails.")
@click.option(
    "--preflight/--no-preflight",
    default=None,
    help="Refuse also for trouble that may pass; or do not make the plan first.  [default: refuse what must be mended]",
)
@click.option(
    "--wait", type=float, default=_PLANNED, show_default=True, help="Seconds to wait for the answer; 0: none."
)
@output_option
@api_options
@config_option
@click.pass_context
def request(
    ctx: click.Context,
    operator: str,
    reason: str | None,
    watching: bool,
    preflight: bool | None,
    wait: float,
    output: str,
    api: str | None,
    token_file: Path | None,
) -> None:
    """Ask for a cutover: publish catalyst.cutover.requested.

    The plan is made first: what a person must mend refuses the request (exit 1) before anything is written.
    One run at a time: while one is active, the request is refused (exit 1) and says which. Asking again after a
    run has ended is always safe: steps that find nothing to do say so.

    \b
    Examples
      cutover request --reason "handover of 2026-11-23" --watch
      nats pub catalyst.cutover.requested '{"specversion":"1.0","id":"1","source":"me",
        "type":"io.openova.catalyst.cutover.requested.v1","data":{}}'
    """
    whence = remote_of(api, token_file) or settings_of(ctx)
    if isinstance(whence, Remote):
        _only_the_token_says_who(ctx)
        answer = run(whence.tell("/start", {"reason": reason, "again": True, "preflight": preflight}))
    else:
        answer = run(_tell(whence, facts.Requested(operator=operator, reason=reason, preflight=preflight), wait))
    _report(answer, output, "accepted as run {run}", "is `cutover work` running?")
    if watching:
        cli_watching.watch_run(whence, from_start=True, once=True, plain=False)


def _only_the_token_says_who(ctx: click.Context) -> None:
    if ctx.get_parameter_source("operator") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("with --api the token says who asks; leave --operator out")


@click.command(short_help="Stop the active run at the next safe point.")
@click.option("--run", "run_id", metavar="ID", help="Only if this run is the active one.")
@click.option("--operator", default=asking.operator_of_this_shell, show_default="you", help="Who stops it.")
@click.option("--reason", help="Why, for the record.")
@click.option("--wait", type=float, default=_WAIT, show_default=True, help="Seconds to wait for the answer; 0: none.")
@output_option
@api_options
@config_option
@click.pass_context
def cancel(
    ctx: click.Context,
    run_id: str | None,
    operator: str,
    reason: str | None,
    wait: float,
    output: str,
    api: str | None,
    token_file: Path | None,
) -> None:
    """Stop the active run at the next safe point: publish catalyst.cutover.cancel.

    Nothing is rolled back: what was pivoted stays pivoted and works, and a new request goes on from there.
    """
    whence = remote_of(api, token_file) or settings_of(ctx)
    if isinstance(whence, Remote):
        _only_the_token_says_who(ctx)
        answer = run(whence.tell("/cancel", {"run": run_id, "reason": reason}))
    else:
        answer = run(_tell(whence, facts.CancelRequested(run=run_id, operator=operator, reason=reason), wait))
    _report(answer, output, "run {run} is cancelled", "is `cutover work` running?")


async def _tell(settings: Settings, data: facts.Requested | facts.CancelRequested, wait: float) -> Answer:
    async with asking.listening(settings) as stream:
        if isinstance(data, facts.CancelRequested):
            state = await asking.state(stream)
            if not state.active and pending(state) is None:
                raise Failed("no run is active, and auto-fire is not armed; nothing was published")
        seq = await asking.publish(settings, stream, data)
        return await asking.answer(stream, seq, wait) if wait > 0 else Answer(seq)


def _report(answer: Answer, output: str, done: str, unanswered: str) -> None:
    if output == "json":
        click.echo(json.dumps(asdict(answer)))
    elif answer.run:
        click.echo(f"message {answer.sequence}: {done.format(run=answer.run)}")
    elif answer.run == "":
        click.echo(f"message {answer.sequence}: auto-fire is cancelled for good")
    elif not answer.refused:
        click.echo(f"message {answer.sequence} is in the log; nobody has answered yet: {unanswered}")
    if answer.refused:
        raise Failed(f"refused: {answer.reason}: {answer.message}")


@click.command(short_help="Show where the cutover stands.")
@click.option("--check", is_flag=True, help="Exit 1 unless the cutover is complete and was no rehearsal.")
@output_option
@api_options
@config_option
@click.pass_context
def status(ctx: click.Context, check: bool, output: str, api: str | None, token_file: Path | None) -> None:
    """Show where the cutover stands, computed from the log.

    JSON has the same keys as the ConfigMap self-sovereign-cutover-status.

    \b
    Examples
      cutover status
      cutover status --output json | jq -r .cutoverComplete
      until cutover status --check; do sleep 30; done
    """
    remote = remote_of(api, token_file)
    state = run(cli_remote.folded(remote) if remote else _state(settings_of(ctx)))
    if output == "json":
        click.echo(json.dumps(picture(state), indent=2, sort_keys=True))
    else:
        console = Console(highlight=False)
        console.print(printing.table(state, datetime.now(UTC)))
        console.print(printing.verdict(state), soft_wrap=True, markup=False, emoji=False)
    if state.broken:
        raise Broken(f"integrity: {state.broken}")
    if check and (not state.complete or state.rehearsal):
        raise click.exceptions.Exit(Failed.exit_code)


async def _state(settings: Settings) -> State:
    async with asking.listening(settings) as stream:
        return await asking.state(stream)


@click.command(short_help="Follow the hash chain of the log or of an export.")
@click.argument("file", required=False, type=_FILE)
@click.option("--certificate", metavar="FILE", type=_FILE, help="Check this certificate against the log of --log.")
@click.option("--log", "log_file", metavar="FILE", type=_FILE, help="The exported log that was certified.")
@click.option("--key", metavar="FILE", type=_FILE, help="The Sovereign's public key: no other one is believed.")
@click.option("--continued", is_flag=True, help="The log may go on after the certificate.")
@output_option
@config_option
@click.pass_context
def verify(
    ctx: click.Context, file: Path | None, certificate: Path | None, log_file: Path | None, key: Path | None,
    continued: bool, output: str,
) -> None:  # fmt: skip
    """Follow the hash chain of the log, or of an export, from the first event to the last.

    Finds changed, missing and reordered facts, missing messages, and evidence that does not belong to its run.
    Requests and triggers stand beside the chain: who asked is in `accepted`, which is in it. An export that was
    cut off at its end is whole as far as it goes: compare `head` with the log, or with a note taken earlier.
    With FILE nothing is connected and no settings are needed; so it is with --certificate, which must belong to
    exactly this log: a changed, dropped, moved or added message, or another key, fails.

    \b
    Examples
      cutover verify
      cutover verify log.jsonl
      cutover verify --certificate certificate.json --log log.jsonl --key certificate.pub
    """
    if certificate is not None:
        if log_file is None or file is not None:
            raise click.UsageError("--certificate needs the exported log: --log FILE")
        from workers.entrypoints import cli_certificate

        cli_certificate.check(certificate, log_file, key, continued, output)
        return
    if key or continued:
        raise click.UsageError("--key and --continued belong to --certificate FILE")
    file = file or log_file
    finding = _verify_file(file) if file else run(_verify_log(settings_of(ctx)))
    if output == "json":
        click.echo(json.dumps(asdict(finding)))
    elif not finding.faults:
        click.echo(
            f"whole: {finding.messages} messages, {finding.events} events in the chain, head sha256:{finding.head}"
        )
    if finding.foreign and output == "text":
        click.echo(f"{finding.foreign} message(s) on the journal are not ours; they are no part of the history")
    if finding.faults:
        raise Broken("integrity broken:\n  " + "\n  ".join(finding.faults))


def _verify_file(file: Path) -> Finding:
    try:
        with file.open("rb") as lines:
            return export.check(export.entries(lines))
    except Rewritten as error:
        raise Broken(f"integrity broken: {file}: {error}") from None


async def _verify_log(settings: Settings) -> Finding:
    async with asking.listening(settings) as stream:
        return export.check([entry async for entry in asking.messages(stream)])


@click.command(short_help="Compare the ConfigMap with the log, byte for byte.")
@click.option("--write", is_flag=True, help="Write the ConfigMap anew from the log.")
@output_option
@config_option
@click.pass_context
def replay(ctx: click.Context, write: bool, output: str) -> None:
    """Fold the log from sequence 1 and compare with the live ConfigMap, byte for byte.

    The ConfigMap is only a picture of the log: one that differs was edited, or is broken, and can be written anew.
    """
    found = run(_compare(settings_of(ctx), write))
    if output == "json":
        click.echo(json.dumps({**asdict(found), "same": found.same}))
    elif found.same:
        behind = f"; the log is at {found.head}" if found.head != found.shown else ""
        click.echo(f"same: the ConfigMap is the fold of the log up to sequence {found.shown}{behind}")
    if not found.same:
        raise Broken("the ConfigMap is not what the log says:\n  " + "\n  ".join(found.differences))


async def _compare(settings: Settings, write: bool) -> Comparison:
    from workers.entrypoints import wiring

    async with asking.listening(settings) as stream, wiring.cluster(settings) as cluster:
        if write:
            await asking.repaint(settings, stream, cluster)
        return await asking.compare(settings, stream, cluster)
