"""The command `certificate`, and the offline half of `verify`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click

from events import certificate as certificates
from events import export
from events.certificate import Forged, Uncertifiable, Verified, Verifier
from events.export import Rewritten
from events.log import Entry
from workers.entrypoints import asking
from workers.entrypoints.cli_common import Broken, Failed, Misused, config_option, run, settings_of
from workers.entrypoints.cli_remote import Remote, api_options, remote_of
from workers.entrypoints.settings import Settings


@click.command("certificate", short_help="Sign what the log proves.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Into this file, instead of the output.")
@click.option("--log", "log_file", type=click.Path(dir_okay=False, path_type=Path), help="Export the same log beside.")
@click.option("--key-out", type=click.Path(dir_okay=False, path_type=Path), help="The public key, for those who check.")
@api_options
@config_option
@click.pass_context
def command(
    ctx: click.Context,
    out: Path | None,
    log_file: Path | None,
    key_out: Path | None,
    api: str | None,
    token_file: Path | None,
) -> None:
    """Sign what the log proves: an in-toto Statement in a DSSE envelope, over every message so far.

    It says what was blocked, how and how long, what was forced and seen, and what still leads outside. The key is
    made on first use and kept in the Secret cutover-certificate-key. Exit 1 while no cutover is complete.

    \b
    Examples
      cutover certificate --out certificate.json --log log.jsonl --key-out certificate.pub
      cutover verify --certificate certificate.json --log log.jsonl --key certificate.pub
    """
    remote = remote_of(api, token_file)
    if remote and log_file:
        raise click.UsageError("the API gives no export of the log: leave --log out, or ask NATS")
    signed, entries, key = run(_asked(remote) if remote else _issue(settings_of(ctx)))
    if log_file:
        log_file.write_bytes(exported(entries))
    if key_out:
        key_out.write_text(key.pem, encoding="utf-8")
    if out:
        out.write_bytes(signed)
        click.echo(f"{out}: {summary(certificates.opened(signed))}")
    else:
        click.echo(signed.decode(), nl=False)


async def _asked(remote: Remote) -> tuple[bytes, list[Entry], Verifier]:
    signed = await remote.ask("GET", "/certificate")
    with remote.understood():
        if not {"payload", "signatures"} <= json.loads(signed).keys():
            raise remote.foreign()
    try:
        predicate = certificates.opened(signed)["predicate"]
    except Forged as error:
        raise Broken(f"the API's answer: {error}") from None
    return signed, [], Verifier.from_pem(predicate["signer"]["publicKey"].encode())


async def _issue(settings: Settings) -> tuple[bytes, list[Entry], Verifier]:
    from workers import certify
    from workers.entrypoints import wiring

    async with asking.listening(settings) as stream, wiring.cluster(settings) as cluster:
        entries = [entry async for entry in asking.messages(stream)]
        signer = await certify.signer(cluster, settings.status.namespace)
    try:
        return certificates.issue(entries, signer), entries, signer.verifier
    except Uncertifiable as error:
        raise Failed(f"there is nothing to certify: {error}") from None


def exported(entries: Iterable[Entry]) -> bytes:
    """The log as a file."""
    return b"".join(export.line(entry) + b"\n" for entry in entries)


def summary(document: certificates.Document) -> str:
    """What a certificate claims, in a line."""
    predicate = document["predicate"]
    held = predicate["egress"].get("held_seconds", 0)
    hosts = len(predicate["egress"].get("blocked_hosts", ()))
    return (
        f"{predicate['sovereign']} {predicate['run']['id']}: {predicate['verdict']}, "
        f"{hosts} hosts blocked for {held:g} s, signed by {predicate['signer']['keyid']}"
    )


def check(file: Path, log: Path, key: Path | None, continued: bool, output: str) -> None:
    """`verify --certificate FILE --log FILE`: nothing is connected. Ends with 4 when they do not belong together."""
    try:
        trusted = Verifier.from_pem(key.read_bytes()) if key else None
    except ValueError:
        raise Misused(f"{key} is no public Ed25519 key") from None
    try:
        with log.open("rb") as lines:
            found = certificates.verify(file.read_bytes(), export.entries(lines), trusted=trusted, continued=continued)
    except Rewritten as error:
        raise Broken(f"integrity broken: {log}: {error}") from None
    except Forged as error:
        raise Broken(f"{file}: {error}") from None
    _tell(found, output, pinned=trusted is not None)
    if found.faults:
        raise Broken("certificate and log do not belong together:\n  " + "\n  ".join(found.faults))


def _tell(found: Verified, output: str, *, pinned: bool) -> None:
    if output == "json":
        said = {"valid": not found.faults, "faults": found.faults, "keyid": found.keyid, "pinned": pinned}
        click.echo(json.dumps({**said, "beyond": found.beyond, "statement": found.statement}))
        return
    if found.faults:
        return
    click.echo(f"valid: {summary(found.statement)}")
    if not pinned:
        click.echo("Whose key that is, this file cannot tell: compare it with the Sovereign's own, or give --key.")
    if found.beyond:
        click.echo(f"The log goes on for {found.beyond} messages after the certificate; nothing vouches for those.")
