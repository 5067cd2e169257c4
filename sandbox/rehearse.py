"""`cutover rehearse`: a whole cutover on a Sovereign in a box, with real workers on a real log."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import click
import orjson
import yaml
from pydantic import BaseModel
from rich.console import Console

from events import certificate, export, flow
from events.envelope import Undecodable, data_of, read
from events.flow import Step
from events.fold import State
from events.jetstream import JetStreamLog
from events.log import Entry
from events.subjects import JOURNAL
from sandbox.box import Box
from sandbox.crew import STARTUP, Crew, Lost, front_door
from sandbox.oidc import OPERATOR
from sandbox.scenarios import SCENARIOS, Scenario, near_its_step
from sandbox.settling import Unsettled
from schemas.events import Audited, Requested
from workers import certify
from workers.adapters.cluster import CONFIG_MAP, Cluster
from workers.entrypoints import asking, printing, watching
from workers.entrypoints.asking import Comparison
from workers.entrypoints.cli_common import CONTEXT, Broken, Failed, Unreachable, run
from workers.entrypoints.cli_remote import Remote
from workers.entrypoints.settings import Settings, load

STAGED = {
    "upstream-git-refuses": "gitea-mirror",
    "project-of-the-wrong-kind": "harbor-projects",
    "image-denied": "harbor-prewarm",
    "deaf-chart": "catalyst-api-env-patch",
}
"""Names for what `--fail` stages -> the step that must notice; the others are in `sandbox.scenarios`."""
SETTLED = 60.0  # seconds for the projector to show the log's end
ANSWER = 180.0  # seconds for the plan, and for a run to begin


@dataclass(frozen=True)
class Plan:
    """What was asked for on the command line."""

    directory: Path
    repo: str | None
    tree: Path | None
    hold: float
    fail: Step | None
    scenario: Scenario | None
    heal: bool
    by_hand: bool
    workers: int
    plain: bool
    granted: bool = False
    """Workers by class, each with what the chart grants it and no more."""


@dataclass(frozen=True)
class Outcome:
    """How the rehearsal ended."""

    state: State
    comparison: Comparison
    staged: Step | None
    """The step that failed because we made it."""
    waited: bool = False
    """The step waited because we made it, and went on when it was healed."""

    @property
    def honest(self) -> bool:
        """The status ConfigMap is what the log says."""
        return self.comparison.same and self.comparison.shown == self.comparison.head


def _step(_ctx: click.Context, _param: click.Parameter, word: str | None) -> Step | None:
    if word is None:
        return None
    step = flow.find(word)
    if step is None:
        raise click.BadParameter(f"no step {word!r}; one of {', '.join(flow.SLUGS)}")
    return step


@click.command(short_help="A whole cutover on a Sovereign in a box.", context_settings=CONTEXT)
@click.option(
    "--keep", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
    help="Where the Sovereign is kept. One that is there already is opened again. Default: a new temporary directory.",
)  # fmt: skip
@click.option("--repo", metavar="URL", help="Upstream repository instead of the generated one (a Git URL or path).")
@click.option(
    "--tree", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A plain tree of manifests (clusters/_template) as upstream repository.",
)  # fmt: skip
@click.option(
    "--hold", metavar="SECONDS", type=click.FloatRange(min=1.0), default=10.0, show_default=True,
    help="How long egress is blocked. On a Sovereign in a box it is a rehearsal, never the proof.",
)  # fmt: skip
@click.option("--fail", "fail", metavar="STEP", callback=_step, help="Make this step (slug or number) fail for real.")
@click.option(
    "--scenario", type=click.Choice(sorted([*STAGED, *SCENARIOS])), help="Stage a failure from the field by its name."
)
@click.option("--heal/--no-heal", default=True, show_default=True, help="After a staged failure: undo it, ask again.")
@click.option("--by-hand", is_flag=True, help="Ask for nothing: wait until you publish the request yourself.")
@click.option("--workers", type=click.IntRange(1, 8), default=1, show_default=True, help="Worker processes.")
@click.option("--least-privilege", is_flag=True, help="Workers by class; what the chart grants them is enforced.")
@click.option("--plain", is_flag=True, help="Lines instead of a table; always so when the output is no terminal.")
def rehearse(
    keep: Path | None, repo: str | None, tree: Path | None, hold: float, fail: Step | None, scenario: str | None,
    heal: bool, by_hand: bool, workers: int, least_privilege: bool, plain: bool,
) -> None:  # fmt: skip
    """Rehearse a whole cutover here, on a Sovereign in a box: nothing outside this machine is touched.

    Starts a broker, Git hosts, registries, a Kubernetes API with Flux and nodes on loopback, then real workers,
    and asks for a cutover. Exits 0 when it completed, 1 when it failed.

    \b
    Examples
      cutover rehearse
      cutover rehearse --keep box && cutover rehearse --keep box     the second finds nothing to do
      cutover rehearse --fail harbor-prewarm                          a failure, and the way out of it
      cutover rehearse --tree ~/openova/clusters/_template --workers 2
    """
    if repo and tree:
        raise click.UsageError("--repo and --tree both say what upstream is; give one")
    if scenario:
        if fail:
            raise click.UsageError("--fail and --scenario both stage a failure; give one")
        if scenario in STAGED:
            fail = flow.BY_SLUG[STAGED[scenario]]
        elif SCENARIOS[scenario].verdict and not SCENARIOS[scenario].waits:
            fail = flow.BY_SLUG[SCENARIOS[scenario].step]
    # Settings in the caller's environment are those of a real Sovereign; a rehearsal must not touch it.
    for name in [name for name in os.environ if name.startswith("CUTOVER_")]:
        del os.environ[name]
    directory = keep or Path(tempfile.mkdtemp(prefix="sovereign-"))
    plan = Plan(
        directory.resolve(), repo, tree, hold, fail, SCENARIOS.get(scenario or ""), heal, by_hand, workers, plain,
        granted=least_privilege,
    )  # fmt: skip
    console = Console(highlight=False)
    outcome = run(_rehearse(plan, console))
    _end(plan, outcome, console)


async def _rehearse(plan: Plan, console: Console) -> Outcome:
    _say(console, f"A Sovereign in a box, in {plan.directory}")
    short = f"The hold is {plan.hold:g} s instead of 600 s" if plan.hold < 600 else "No Sovereign of yours is touched"
    _say(console, f"{short}: this is a rehearsal, not the proof.")
    try:
        async with _opened(plan, console) as box:
            return await _with(box, plan, console)
    except Unsettled as error:
        raise Failed(f"the Sovereign did not come up: {error}\nSee {plan.directory / 'sandbox.log'}") from None
    except Lost as error:
        raise Failed(str(error)) from None


def _opened(plan: Plan, console: Console) -> AbstractAsyncContextManager[Box]:
    charter = None
    if plan.granted:
        from sandbox import blueprint  # Helm's library is for those who ask for it

        charter = blueprint.charter(blueprint.FRONT_DOOR)
    say = lambda line: _say(console, f"  {line}")  # noqa: E731
    return Box.open(plan.directory, plan.repo, plan.tree, plan.hold, say=say, charter=charter)


def _describe(box: Box, changed: Callable[[dict[str, Any]], None]) -> None:
    """Tell the workers what the scenario wants them to be told."""
    for file in (box.settings_file, *box.class_settings.values()):
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        changed(document)
        file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


async def _with(box: Box, plan: Plan, console: Console) -> Outcome:
    """Everything between a settled Sovereign and the files that are left behind."""
    if plan.scenario is not None and plan.scenario.described is not None:
        _describe(box, plan.scenario.described)
    settings = load(box.settings_file)
    staged: Step | None = None
    async with (
        JetStreamLog.open(settings.nats) as stream,
        Crew.at_work(box.settings_file, box.directory, plan.workers, box.class_settings) as crew,
    ):
        await stream.ensure()
        if plan.scenario is not None:
            act = plan.scenario
            _say(console, f"Near {act.step}: {act.tells}. It must end in {act.verdict or 'success'}")
        elif plan.fail is not None:
            _say(console, f"Staged for {plan.fail.slug}: {await box.fail(plan.fail.slug)}")
        else:
            await box.heal()  # of what an earlier rehearsal staged here
        async with near_its_step(box, stream, plan.scenario) if plan.scenario else nullcontext() as waited:
            if plan.by_hand:
                state = await _by_hand(box, settings, stream, crew, plan, console)
            else:
                # What is staged is for the step to meet: the plan would tell of it before anything begins.
                staged_first = plan.fail is not None
                state = await _run(box, settings, stream, crew, plan, console, False if staged_first else None)
        if (
            plan.fail is not None
            and not plan.by_hand
            and state.run is not None
            and state.run.failed_step == plan.fail.slug
            and (plan.scenario is None or state.run.reason == plan.scenario.verdict)
        ):
            staged = plan.fail
            _tell_failure(state, console)
            if plan.heal:
                await box.heal()
                _say(console, f"Healed {plan.fail.slug}. Asking again:")
                state = await _run(box, settings, stream, crew, plan, console)
        async with Cluster.open(kubeconfig=box.kubeconfig, field_manager="rehearsal") as cluster:
            if state.complete:
                await _audited(stream, state)
            comparison = await _shown(settings, stream, cluster)
            await _leave_files(settings, stream, cluster, plan.directory)
    return Outcome(state, comparison, staged, waited=waited is not None and waited.is_set())


async def _run(
    box: Box,
    settings: Settings,
    stream: JetStreamLog,
    crew: Crew,
    plan: Plan,
    console: Console,
    preflight: bool | None = None,
) -> State:
    """Ask for a cutover and show it to its end. Raises Lost when the workers die, Failed when it is refused."""
    before = await asking.state(stream)
    if before.active:
        _say(console, "A run of an earlier rehearsal is under way; it is taken up where it stopped.")
        since = before.seq
    else:
        since = await (_asked_at_the_door(box, preflight) if plan.granted else _asked(settings, stream, preflight))
    async with _attended(crew), watching.shown(console, plain=plan.plain) as view:
        if not before.active and (said := await asking.answer(stream, since, ANSWER)).refused:
            raise Failed(f"nothing was begun: {said.reason}: {said.message}")
        return await watching.follow(stream, view, from_start=False, since=since)
    raise AssertionError("unreachable")


async def _asked(settings: Settings, stream: JetStreamLog, preflight: bool | None) -> int:
    data = Requested(operator=asking.operator_of_this_shell(), reason="rehearsal", preflight=preflight)
    return await asking.publish(settings, stream, data)


async def _asked_at_the_door(box: Box, preflight: bool | None) -> int:
    """With the front door's own identity in the cluster and at the broker, as an operator of the realm."""
    async with front_door(box.api_settings, box.directory) as url:
        door = Remote(url, None, box.issuer.token(OPERATOR))
        with anyio.fail_after(STARTUP):
            while True:  # it has read the log
                try:
                    await door.ask("GET", "/status")
                    break
                except (Unreachable, Failed):
                    await anyio.sleep(0.2)
        body = {"reason": "rehearsal", "again": True, "preflight": preflight}
        return (await door.tell("/start", body)).sequence


async def _by_hand(
    box: Box, settings: Settings, stream: JetStreamLog, crew: Crew, plan: Plan, console: Console
) -> State:
    """Show whatever runs are asked for from outside, until a signal ends it. Raises Lost when the workers die."""
    _say(console, f"export NATS_URL={settings.nats.url}")
    _say(console, "Waiting for catalyst.cutover.requested; the Sovereign stays up until Ctrl-C.")
    async with front_door(box.api_settings, plan.directory) as url:
        _tell_door(settings, plan.directory, url, console)
        return await _attend(stream, crew, plan, console)
    raise AssertionError("unreachable")


def _tell_door(settings: Settings, directory: Path, url: str, console: Console) -> None:
    """Where the console is, and how an operator gets a token for the command line."""
    identity = settings.api.identity
    assert identity is not None
    secret = directory / "secrets" / f"login-{OPERATOR}"
    _say(console, f"Console: {url}/   (user {OPERATOR}, password in {secret})")
    _say(console, f"curl -s {identity.issuer}/protocol/openid-connect/token -d grant_type=password \\")
    _say(console, f"  -d username={OPERATOR} --data-urlencode password@{secret} | jq -r .access_token >token")
    _say(console, f"cutover request --api {url} --token-file token --watch")


async def _attend(stream: JetStreamLog, crew: Crew, plan: Plan, console: Console) -> State:
    """Show every run until a signal comes. Raises Lost when the workers die."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with _attended(crew), anyio.create_task_group() as tasks:

            async def show() -> None:
                while True:
                    async with watching.shown(console, plain=plan.plain) as view:
                        state = await watching.follow(stream, view, from_start=False)
                    _say(console, printing.verdict(state))

            tasks.start_soon(show)
            async for _ in signals:
                break
            tasks.cancel_scope.cancel()
    return await asking.state(stream)


@asynccontextmanager
async def _attended(crew: Crew) -> AsyncIterator[None]:
    """While the block runs, workers are there. Raises Lost when they are not any more."""
    lost: list[Lost] = []
    async with anyio.create_task_group() as tasks:

        async def guard() -> None:
            try:
                await crew.lost()
            except Lost as error:
                lost.append(error)
                tasks.cancel_scope.cancel()

        tasks.start_soon(guard)
        yield
        tasks.cancel_scope.cancel()
    if lost:
        raise lost[0]


def _tell_failure(state: State, console: Console) -> None:
    run_ = state.run
    assert run_ is not None
    _say(console, f"Failed as staged, at {run_.failed_step}: {run_.reason}: {run_.message}")
    later = [step.slug for step in flow.STEPS if not run_.step(step.slug).result]
    if later:
        _say(console, f"Did not start: {', '.join(later)}")


async def _shown(settings: Settings, stream: JetStreamLog, cluster: Cluster) -> Comparison:
    """The comparison of ConfigMap and log, once the projector has shown the end."""
    found = await asking.compare(settings, stream, cluster)
    with anyio.move_on_after(SETTLED):
        async for _ in cluster.watch(CONFIG_MAP, settings.status.namespace, name=settings.status.name):
            found = await asking.compare(settings, stream, cluster)
            if found.same and found.shown == found.head:
                break
    return found


async def _audited(stream: JetStreamLog, state: State) -> None:
    """The workers have looked for tethers once more and said so, unless they take too long."""
    since = state.run.step(flow.LAST.slug).token if state.run else 0
    with anyio.move_on_after(SETTLED):
        async for entry in stream.read(JOURNAL, since, live=True):
            if isinstance(_fact(entry), Audited):
                return


def _fact(entry: Entry) -> BaseModel | None:
    try:
        return data_of(read(entry.raw))
    except Undecodable:
        return None


async def _leave_files(settings: Settings, stream: JetStreamLog, cluster: Cluster, directory: Path) -> None:
    """`log.jsonl`, `status.json` and, of a complete cutover, `certificate.json`, for whoever looks at it later."""
    entries = [entry async for entry in asking.messages(stream)]
    await anyio.Path(directory / "log.jsonl").write_bytes(b"".join(export.line(entry) + b"\n" for entry in entries))
    await _certify(settings, cluster, entries, directory)
    live = await cluster.get(CONFIG_MAP, settings.status.name, settings.status.namespace) or {}
    status = orjson.dumps(live.get("data") or {}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    await anyio.Path(directory / "status.json").write_bytes(status + b"\n")


async def _certify(settings: Settings, cluster: Cluster, entries: list[Entry], directory: Path) -> None:
    """`certificate.json` and the key that checks it; one of an older rehearsal does not stay."""
    signer = await certify.signer(cluster, settings.status.namespace)
    place = anyio.Path(directory / "certificate.json")
    try:
        await place.write_bytes(certificate.issue(entries, signer))
    except certificate.Uncertifiable:
        await place.unlink(missing_ok=True)
        return
    await anyio.Path(directory / "certificate.pub").write_text(signer.verifier.pem, encoding="utf-8")


def _end(plan: Plan, outcome: Outcome, console: Console) -> None:
    """The verdict, where everything was kept, and an exit code that says the same."""
    _say(console, "")
    _say(console, printing.verdict(outcome.state))
    _say(console, f"Log:    {plan.directory / 'log.jsonl'}")
    _say(console, f"Status: {plan.directory / 'status.json'}")
    if (plan.directory / "certificate.json").exists():
        _say(console, f"Signed: {plan.directory / 'certificate.json'}")
    _say(console, f"Again:  cutover rehearse --keep {plan.directory}")
    if not outcome.honest:
        raise Broken("the status ConfigMap is not what the log says:\n  " + "\n  ".join(outcome.comparison.differences))
    if plan.scenario is not None and plan.scenario.waits and not plan.by_hand:
        if not outcome.waited:
            raise Failed(f"{plan.scenario.step} never waited with {plan.scenario.verdict}: nothing was learned")
        _say(console, f"Waited as staged, at {plan.scenario.step}: {plan.scenario.verdict}; healed, the run went on.")
    if plan.fail is not None and not plan.by_hand and outcome.staged is None:
        raise Failed(f"{plan.fail.slug} was made to fail and did not: nothing was learned about the failure")
    run_ = outcome.state.run
    if run_ is None or run_.phase != "succeeded":
        raise Failed(f"the rehearsal failed; workers' logs: {plan.directory}/worker-*.log")


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, emoji=False, soft_wrap=True)
