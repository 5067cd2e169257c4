"""A whole cutover with the chart's own grants enforced, at the API server and at the broker: enough, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import anyio
import pytest
import pytest_asyncio
from acceptance_scene import in_one_task
from granted_scene import BASE, Ground, opened
from grants import grants, matches, published, published_by
from rare_grants import RARE, RARE_SUBJECTS

from events import flow
from events.envelope import Draft
from events.subjects import REQUESTED, trigger
from sandbox.oidc import VIEWER
from schemas.events import Requested, Trigger
from workers.adapters.cluster import CONFIG_MAP, Cluster
from workers.entrypoints import asking
from workers.node_log import reports

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    """One box for all tests of this file."""
    found, close = await in_one_task(lambda: opened(tmp_path_factory.mktemp("granted")))
    yield found
    await close()


async def by_hand(ground: Ground) -> None:
    """The first step's trigger, published by an operator who has a login of the broker: it begins a run."""
    name = f"by-hand-{await ground.head()}"
    data = Trigger(step=flow.FIRST.slug)
    draft = Draft(id=name, source="//test", data=data, subject=flow.FIRST.slug, time=datetime.now(UTC))
    await ground.operator.publish_raw(trigger(flow.FIRST), draft.encode(), id=name)


async def test_before_the_handover_is_sealed_nobody_begins_whichever_way(ground: Ground) -> None:
    refused = await ground.ask("POST", "start")
    assert (refused.status_code, refused.json()["error"]) == (425, "handover-incomplete")
    await by_hand(ground)
    await ground.until_said("supply", "HandoverIncomplete")
    assert ground.box.kube.api.denied == {}


async def test_a_first_login_fires_and_what_fired_is_cancelled_at_the_front_door(ground: Ground) -> None:
    await ground.seal()
    await ground.by_hand()
    assert (await ground.ask("POST", "login")).status_code == 202
    fired = await ground.until(lambda state: state.run is not None, 200)
    assert fired.run is not None
    assert fired.run.operator.startswith("operator")
    cancelled = await ground.ask("POST", "cancel", reason="not yet")
    assert cancelled.status_code == 202, cancelled.text
    assert not (await ground.until(lambda state: not state.active, 200)).complete
    assert ground.box.kube.api.denied == {}


SAMPLE = [
    ("supply", "list", "pods", "harbor-projects"),
    ("pivot", "get", "gitrepositories", "flux-gitrepository-patch"),
    ("proof", "create", "jobs", "egress-block-test"),
]


@pytest.mark.parametrize(("name", "verb", "resource", "step"), SAMPLE, ids=[f"{s[0]}-{s[1]}-{s[2]}" for s in SAMPLE])
async def test_a_grant_that_is_missing_stops_the_step_that_needs_it_by_its_name(
    ground: Ground, name: str, verb: str, resource: str, step: str
) -> None:
    account = ground.charter.accounts[name]
    gone = next(
        g for g in grants(ground.charter.objects) if (g.account, g.verb, g.resource) == (account, verb, resource)
    )
    async with ground.lacking(gone):
        state = await ground.run()
    assert state.run is not None
    assert (state.run.phase, state.run.failed_step, state.run.reason) == ("failed", step, "ApiForbidden")
    assert f"{verb} {resource}" in state.run.message
    assert f"grant {account} the verb {verb}" in state.run.message
    assert not state.complete


async def test_a_lifter_that_could_not_lift_means_that_nothing_is_blocked(ground: Ground) -> None:
    account = ground.charter.accounts["lifter"]
    gone = next(g for g in grants(ground.charter.objects) if (g.account, g.verb) == (account, "delete"))
    async with ground.lacking(gone):
        state = await ground.run()
    assert state.run is not None
    assert (state.run.failed_step, state.run.reason) == ("egress-block-test", "NoLifter")
    assert f"delete {gone.resource}" in state.run.message


async def test_with_the_charts_own_grants_a_cutover_is_complete_and_nobody_is_refused(ground: Ground) -> None:
    """Asked for by a Pod that the API server knows, after a look ahead."""
    ground.box.kube.api.denied.clear()
    answer = await ground.ask("POST", "start", who="", preflight=True)
    assert answer.status_code == 202, answer.text
    state = await ground.ended(answer.json()["request"])
    assert state.run is not None
    assert (state.run.phase, state.run.reason, state.run.message) == ("succeeded", "", "")
    assert state.complete
    assert {account: {str(a) for a in asks} for account, asks in ground.box.kube.api.denied.items()} == {}
    assert "iolation" not in (ground.box.broker.directory / "nats.log").read_text(errors="replace")


async def test_at_the_front_door_everything_can_be_asked_and_nobody_is_refused(ground: Ground) -> None:
    for path in ("status", "plan", "audit", "certificate"):
        answer = await ground.ask("GET", path, who=VIEWER)
        assert answer.status_code == 200, answer.text
        assert "403" not in answer.text  # what could not be read is told in the plan and the audit
    ticket = (await ground.ask("POST", "ticket", who=VIEWER)).json()["ticket"]
    events = await ground.web.get(f"{BASE}/events?ticket={ticket}&follow=false&lastEventId=0")
    assert events.text.count("event: completed") == 1
    retried = await ground.ask("POST", f"steps/{flow.LAST.slug}/retry")  # the last: none follows
    assert retried.status_code == 202, retried.text
    again = await ground.until(lambda s: s.run is not None and s.run.step(flow.LAST.slug).attempt > 1, 200)
    await ground.until(lambda state: not state.active, 200)
    assert again.complete
    assert ground.box.kube.api.denied == {}
    assert "iolation" not in (ground.box.broker.directory / "nats.log").read_text(errors="replace")


async def test_an_operator_with_a_login_of_the_broker_sees_the_log_and_the_nodes(ground: Ground) -> None:
    """What `status`, `log`, `verify` and `plan` read, over the operator's own connection."""
    state = await asking.state(ground.operator)
    assert state.complete
    assert len([entry async for entry in asking.messages(ground.operator)]) > state.length
    assert len(await reports(ground.operator)) == 3


async def publish_stray(ground: Ground, subject: str, raw: bytes) -> None:
    """What nobody can read, from whoever may publish there."""
    await ground.operator.publish_raw(subject, raw, id=f"stray-{subject}-{await ground.head()}")


async def test_strays_are_rejected_by_whoever_they_came_to(ground: Ground) -> None:
    for step in (1, 5, 8):
        await publish_stray(ground, trigger(flow.BY_NUMBER[step]), b"no event")
    await publish_stray(ground, REQUESTED, b"no event")
    for name in ("supply", "pivot", "proof"):
        await ground.until_said(name, "rejected catalyst.cutover.step.")


async def test_a_status_that_may_not_be_written_stays_what_it_was_and_is_told(ground: Ground) -> None:
    place = ground.settings.status
    gone = next(g for g in grants(ground.charter.objects) if g.name == place.name and g.verb == "update")
    async with Cluster.open(kubeconfig=ground.box.kubeconfig, field_manager="test") as cluster, ground.lacking(gone):
        since = await ground.head()
        before = await cluster.get(CONFIG_MAP, place.name, place.namespace)
        await by_hand(ground)
        await ground.until_said("control", f"update configmaps {place.namespace}/{place.name}: 403")
        assert await cluster.get(CONFIG_MAP, place.name, place.namespace) == before
    state = await ground.ended(since)
    assert state.run is not None
    assert state.run.phase == "succeeded", state.run.message


async def test_a_subject_that_may_not_be_published_is_named_and_the_run_goes_on_once_it_may(ground: Ground) -> None:
    lost = '"catalyst.cutover.step.4"'
    broker, whole = ground.box.broker, ground.charter.authorization()
    supply, _, rest = whole.partition("user: pivot")
    broker.configure(supply.replace(lost, "") + "user: pivot" + rest)
    await broker.restart()
    since = await asking.publish(ground.settings, ground.stream, Requested(operator="carol", reason="test"))
    await ground.until_said("supply", "catalyst.cutover.step.4", 90)
    assert 'publish to "catalyst.cutover.step.4"' in ground.said("supply").lower()
    assert (await ground.until(lambda s: s.seq > since, 30)).active  # neither done nor given up
    broker.configure(whole)
    await broker.restart()
    await ground.again("supply")
    state = await ground.ended(since)
    assert state.run is not None
    assert state.run.phase == "succeeded", state.run.message


async def test_every_grant_was_used_or_is_known_to_be_for_another_day(ground: Ground) -> None:
    """Last: by now everything has happened that this file makes happen."""
    asked = ground.box.kube.api.asked
    unused = {str(g) for g in grants(ground.charter.objects) if not g.used(asked)}
    with anyio.move_on_after(240):  # the look after completion, which nobody waits for, is the last to ask
        while unused - set(RARE):
            await anyio.sleep(0.5)
            unused = {str(g) for g in grants(ground.charter.objects) if not g.used(asked)}
    assert unused - set(RARE) == set()
    sent = published(ground.box.broker.directory / "nats.log")
    silent = {
        f"{user}: {subject}"
        for user, (allow, _) in published_by(ground.charter.users).items()
        for subject in allow
        if not any(matches(subject, each) for each in sent.get(user, ()))
    }
    assert silent - set(RARE_SUBJECTS) == set()
