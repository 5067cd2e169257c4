"""The command `plan`: what a cutover would change, without changing anything."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from events.flow import BY_SLUG
from workers.entrypoints.cli_common import config_option, output_option, run, settings_of
from workers.entrypoints.cli_remote import Remote, api_options, remote_of
from workers.entrypoints.settings import Settings
from workers.node_log import NodeLog
from workers.plan import Planned, Preview, preview


@click.command("plan", short_help="Show what a cutover would change.")
@click.option("--diff/--no-diff", default=True, show_default=True, help="Show each change's lines.")
@click.option("--sizes/--no-sizes", default=True, show_default=True, help="Read upstream's manifests for sizes.")
@output_option
@api_options
@config_option
@click.pass_context
def command(ctx: click.Context, diff: bool, sizes: bool, output: str, api: str | None, token_file: Path | None) -> None:
    """Show what each step would change, object by object, and change nothing.

    Asks the cluster, Gitea, Harbor and upstream Git as they are now. What would stop a step is told as trouble, and
    then the exit code is 1; 0 means that nothing known stands in the way.

    \b
    Examples
      cutover plan
      cutover plan --no-diff
      cutover plan --output json | jq '.[] | {step, changes: (.changes | length), trouble}'
    """
    remote = remote_of(api, token_file)
    found = run(_asked(remote) if remote else _preview(settings_of(ctx), sizes))
    if output == "json":
        click.echo(json.dumps([asdict(step) for step in found], indent=2))
    else:
        for line in lines(found, diff):
            click.echo(_styled(line))
    if any(step.trouble for step in found):
        raise click.exceptions.Exit(1)


async def _asked(remote: Remote) -> list[Preview]:
    raw = await remote.ask("GET", "/plan")
    with remote.understood():
        found = [
            Preview(
                BY_SLUG[step["step"]].slug,
                [Planned(change["what"], tuple(change["diff"])) for change in step["changes"]],
                step["notes"], step["trouble"],
            )
            for step in json.loads(raw)
        ]  # fmt: skip
    if not found:  # nobody's plan has no steps: that nothing is in the way is not to be read out of it
        raise remote.foreign()
    return found


async def _preview(settings: Settings, sizes: bool) -> list[Preview]:
    from workers.entrypoints import wiring

    async with wiring.cluster(settings) as cluster, wiring.world(settings, cluster, NodeLog(settings.nats)) as world:
        return await preview(world, sizes=sizes)


def lines(found: Iterable[Preview], diff: bool) -> Iterable[str]:
    """For people."""
    total = 0
    for step in found:
        total += len(step.changes)
        yield f"{BY_SLUG[step.step].number}/8 {step.step}: {len(step.changes) or 'no'} changes"
        yield from (f"  ! {text}" for text in step.trouble)
        yield from (f"  . {text}" for text in step.notes)
        for change in step.changes:
            yield f"  {change.what}"
            yield from (f"      {line}" for line in change.diff if diff)
    yield f"{total} changes in all; nothing was changed."


def _styled(line: str) -> str:
    text = line.lstrip()
    if line.startswith("      "):
        return click.style(line, fg={"+": "green", "-": "red", "@": "cyan"}.get(text[:1]))
    return click.style(line, fg="red") if text.startswith("! ") else line
