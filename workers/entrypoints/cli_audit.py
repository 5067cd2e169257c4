"""The command `audit`: what still ties the Sovereign to anybody outside."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workers.audit import report
from workers.audit.finding import Audit, Finding, Severity
from workers.audit.survey import audit as survey
from workers.entrypoints.cli_common import Unreachable, config_option, output_option, run, settings_of
from workers.entrypoints.cli_remote import Remote, api_options, remote_of
from workers.entrypoints.settings import Settings
from workers.node_log import NodeLog

_COLOUR = {Severity.TETHER: "red", Severity.EXTERNAL: "yellow", Severity.UNREADABLE: "magenta", Severity.NOTICE: "dim"}


@click.command("audit", short_help="List what still ties this Sovereign.")
@click.option("--report", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write a Markdown report too.")
@output_option
@api_options
@config_option
@click.pass_context
def command(ctx: click.Context, file: Path | None, output: str, api: str | None, token_file: Path | None) -> None:
    """List every string that still ties this Sovereign to the mothership, or to anybody else outside.

    Reads Flux sources, Crossplane packages, workloads, pull secrets and what each node acknowledged; changes nothing.
    Something that cannot be read is a finding, never a pass. Exits 0 when clean, 1 when tethered, 3 when something
    could not be read.

    \b
    Examples
      cutover audit
      cutover audit --output json | jq '.tethers'
      cutover audit --report tethers.md
    """
    whence = remote_of(api, token_file) or settings_of(ctx)
    name, found = run(_asked(whence) if isinstance(whence, Remote) else _taken(whence))
    if file:
        file.write_text(report.markdown(found, name), encoding="utf-8")
    if output == "json":
        click.echo(json.dumps(report.document(found), indent=2))
    else:
        console = Console(highlight=False)
        console.print(table(found))
        console.print(report.verdict(found), markup=False, emoji=False, soft_wrap=True)
    if found.unreadable:
        raise click.exceptions.Exit(Unreachable.exit_code)
    if not found.clean:
        raise click.exceptions.Exit(1)


async def _asked(remote: Remote) -> tuple[str, Audit]:
    raw = await remote.ask("GET", "/audit")
    with remote.understood():
        document = json.loads(raw)
        findings = tuple(Finding.model_validate(each) for each in document["findings"])
        return document["sovereign"], Audit(datetime.fromisoformat(document["at"]), findings)


async def _taken(settings: Settings) -> tuple[str, Audit]:
    return settings.sovereign.fqdn, await taken(settings)


async def taken(settings: Settings) -> Audit:
    """One audit with connections of its own. A broker that is away makes the nodes unreadable, nothing else."""
    from workers.entrypoints import wiring

    async with wiring.cluster(settings) as cluster, wiring.world(settings, cluster, NodeLog(settings.nats)) as world:
        return await survey(world)


def table(found: Audit) -> Table:
    """Every place, the worst first."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "place", "field", "names", "owner", "cut by"):
        shown.add_column(name, overflow="fold")
    for each in found.findings:
        number, place, field, host, _, owner, cut_by = report.cells(each)
        row = (number, place, field, _said(each, host), owner, cut_by)
        shown.add_row(*map(_as_it_is, row), style=_COLOUR[each.severity])
    return shown


def _as_it_is(text: str) -> Text:
    """What somebody else wrote: its brackets are no markup, and what would steer a terminal is not sent to one."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _said(each: Finding, host: str) -> str:
    return f"{host} ({each.severity})" if each.severity is not Severity.TETHER else host
