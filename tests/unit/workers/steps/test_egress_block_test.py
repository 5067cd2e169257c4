"""Step 8's decisions: what counts as proof, when the clock counts, what ends it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from sandbox.network import Host, Identity
from sandbox.policy import Policies, pod_may
from schemas.results import Canary
from workers.audit.finding import Finding, Severity
from workers.errors import Stuck, Wait
from workers.proof import block, canaries, declared, forced, pods
from workers.proof.health import green, red
from workers.proof.hold import HoldClock
from workers.proof.means import cilium
from workers.proof.means.terms import Terms
from workers.sovereign import Gitea, Harbor, Login, Proof, Sovereign
from workers.steps import egress_block_test as step
from workers.world import Order, World

LOGIN = Login(username="robot", password_file=Path("/nowhere"))
SOVEREIGN = Sovereign(
    fqdn="sovereign.test",
    gitea=Gitea(url="http://gitea:3000", login=LOGIN),
    harbor=Harbor(url="http://harbor", host="harbor.sovereign.test", login=LOGIN),
)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def canary(host: str, reached: bool, network: str = "pod") -> Canary:
    return Canary(node="n1", network=network, host=host, reached=reached, detail="")


def found(upstream: bool, local: bool) -> canaries.Sample:
    targets = canaries.targets(SOVEREIGN)
    everything = [canary(h, upstream) for h in targets.upstream.values()]
    return canaries.sort([*everything, *(canary(h, local) for h in targets.local.values())], targets)


def test_a_shortened_hold_is_a_rehearsal_and_never_the_proof() -> None:
    assert step.plan(Proof(hold=10, rehearsal=True)).rehearsal
    assert not step.plan(Proof()).rehearsal
    assert step.plan(Proof(hold=10, rehearsal=True)).sample <= 10 / 3


def test_every_upstream_host_is_a_target_docker_hub_where_it_really_answers() -> None:
    targets = canaries.targets(SOVEREIGN)
    assert targets.upstream["https://registry-1.docker.io"] == "docker.io"
    assert {"github.com", "harbor.openova.io", "ghcr.io"} <= set(targets.upstream.values())
    assert {u.host for u in SOVEREIGN.upstreams} <= set(targets.upstream.values())
    assert "harbor.sovereign.test" in targets.local.values()


def test_one_canary_that_gets_nowhere_before_the_block_means_offline_already() -> None:
    step.check_before(found(upstream=True, local=True))
    with pytest.raises(Stuck, match="OfflineAlready"):
        step.check_before(found(upstream=False, local=True))
    with pytest.raises(Stuck, match="LocalUnreachable"):
        step.check_before(found(upstream=True, local=False))


@pytest.mark.parametrize("slow", [0, 1, 3, 9])
async def test_a_slow_moment_before_the_block_is_asked_again_an_outage_remains(
    slow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def sample(world: World, nodes: Sequence[str], token: int, turn: str, *_: object) -> canaries.Sample:
        asked.append(turn)
        return found(upstream=len(asked) > slow, local=True)

    monkeypatch.setattr(canaries, "sample", sample)
    order = Order("run-1", "egress-block-test", 1, 1, NOW, {})
    seen = await step.reached(order, cast(World, None), ["cp-1"])
    assert bool(seen.shut_in()) == (slow >= step.ASKED)
    assert len(asked) == len(set(asked)) == min(slow + 1, step.ASKED)


def test_shut_in_after_lifting_is_an_outage_only_when_nobody_reaches_that_host() -> None:
    away = canaries.Sample((canary("ghcr.io", False), canary("ghcr.io", False, "host"), canary("quay.io", True)), ())
    assert step.not_freed(away).reason == "StillOffline"
    held = canaries.Sample((canary("ghcr.io", True), canary("ghcr.io", False, "host"), canary("quay.io", False)), ())
    found = step.not_freed(held)
    assert found.reason == "BlockNotLifted"
    assert "n1/host ghcr.io" in found.message
    assert "quay.io" not in found.message


def test_one_canary_that_gets_out_under_the_block_ends_the_proof() -> None:
    step.check_bite(found(upstream=False, local=True))
    escaped = canaries.Sample((canary("ghcr.io", True, "host"), canary("quay.io", False)), ())
    with pytest.raises(Stuck, match=r"EgressNotBlocked.*host ghcr\.io"):
        step.check_bite(escaped)


def test_a_block_that_cuts_the_sovereign_off_from_itself_is_no_proof_either() -> None:
    with pytest.raises(Stuck, match="BlockCutsTooMuch"):
        step.check_bite(found(upstream=False, local=False))


def test_a_canary_that_said_nothing_is_not_a_canary_that_reached_nothing() -> None:
    sent = pods.manifest(
        namespace="ns", purpose="canary-pod", node="n1", token=1, turn="t", image="i", pull="IfNotPresent"
    )
    key, post = ("ns", sent["metadata"]["name"]), canaries.Post("n1", "ns", "pod")
    with pytest.raises(Wait, match="CanarySilent"):
        canaries._heard(post, sent, {}, {"ghcr.io": "ghcr.io"}, {})
    said = {"containerStatuses": [{"state": {"terminated": {"exitCode": 0, "message": "[]"}}}]}
    with pytest.raises(Wait, match="left out"):
        canaries._heard(post, sent, {key: {**sent, "status": said}}, {"ghcr.io": "ghcr.io"}, {})


def test_the_clock_counts_only_what_was_seen() -> None:
    clock = HoldClock(needed=10, longest_gap=2)
    for second in range(6):
        clock.tick(float(second), None)
    assert clock.held == 5
    clock.tick(6.0, "a watch broke")
    assert (clock.held, clock.restarts) == (0, 1)
    for second in range(7, 18):
        clock.tick(float(second), None)
    assert clock.done


def test_time_in_which_nobody_looked_starts_the_clock_anew() -> None:
    clock = HoldClock(needed=10, longest_gap=2)
    clock.tick(0, None)
    clock.tick(1, None)
    clock.tick(9, None)
    assert (clock.held, clock.restarts, clock.done) == (0, 1, False)


def flux(status: str, reason: str = "x", age: float = 1, **more: Any) -> dict[str, Any]:
    since = (NOW - timedelta(seconds=age)).isoformat()
    ready = {"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": since}
    conditions = [ready, *more.get("also", [])]
    return {
        "metadata": {"name": "a", "namespace": "b", "generation": 2, "creationTimestamp": since},
        "spec": more.get("spec", {}),
        "status": {"observedGeneration": more.get("observed", 2), "conditions": conditions},
    }


def test_false_is_red_at_once_and_unknown_only_when_it_lasts() -> None:
    assert red(flux("True"), NOW, 60) is None
    assert red(flux("False", "FetchFailed"), NOW, 60)
    assert red(flux("Unknown", "Progressing", 59), NOW, 60) is None
    assert red(flux("Unknown", "Progressing", 61), NOW, 60)
    assert red(flux("False", "SourceNotReady", 5), NOW, 60) is None
    assert red(flux("False", "SourceNotReady", 61), NOW, 60)
    stalled = {"type": "Stalled", "status": "True", "reason": "InvalidURL"}
    assert red(flux("True", also=[stalled]), NOW, 60)


def test_ready_for_an_older_generation_is_not_green() -> None:
    assert green(flux("True"))
    assert not green(flux("True", observed=1))
    assert not green(flux("Unknown"))


def finding(tether: int, severity: Severity, host: str = "github.com") -> Finding:
    words = {"title": "t", "kind": "GitRepository", "name": "x", "field": "spec.url", "puller": "p"}
    return Finding(tether=tether, severity=severity, host=host, cut_by="its owner", **words)


def test_nothing_is_blocked_while_a_tether_is_declared_or_something_could_not_be_read() -> None:
    declared.judge([finding(8, Severity.NOTICE), finding(0, Severity.TETHER), finding(3, Severity.NOTICE)])
    unread = finding(0, Severity.UNREADABLE)
    with pytest.raises(Wait, match="AuditUnreadable"):
        declared.judge([unread])
    for number in range(1, 8):
        for severity in (Severity.TETHER, Severity.EXTERNAL):
            told = r"TetherLeft.*may hold a tether.*still declared: GitRepository x .*github.com \(cut by its owner\)"
            with pytest.raises(Stuck, match=told):
                declared.judge([unread, finding(number, severity)])


def test_a_chart_counts_as_fetched_only_as_a_new_object_made_under_the_block() -> None:
    chart = flux("True")
    chart["metadata"]["uid"] = "new"
    chart["status"]["artifact"] = {"lastUpdateTime": "2026-01-01T12:00:05Z"}
    assert forced.fresh(chart, "old", NOW)
    assert not forced.fresh(chart, "new", NOW)
    assert not forced.fresh(chart, "old", NOW + timedelta(seconds=60))
    assert not forced.fresh(None, "old", NOW)


def test_only_charts_that_a_release_brings_back_are_deleted() -> None:
    spec = {"chart": {"spec": {"chart": "bp-x", "sourceRef": {"name": "bp-x"}}}}
    own = {"metadata": {"name": "bp-x", "namespace": "flux-system"}, "spec": spec}
    by_reference = {"metadata": {"name": "bp-y", "namespace": "flux-system"}, "spec": {"chartRef": {}}}
    asleep = {"metadata": {"name": "bp-z", "namespace": "flux-system"}, "spec": {**spec, "suspend": True}}
    charts = forced.charts_of([own, by_reference, asleep])
    assert charts == {("flux-system", "flux-system-bp-x"): ("flux-system", "bp-x")}


UPSTREAM = Host("ghcr.io", 1, False, "198.51.100.10")
API = Host("kubernetes.default.svc", 1, True, "10.43.0.10")
LOCAL = Host("gitea-http.gitea.svc.cluster.local:3000", 1, True, "10.43.0.11")


def test_the_policy_denies_the_world_even_to_pods_that_another_policy_lets_out() -> None:
    policy = cilium.policy(Terms("p", (), NOW, 1, "catalyst-cutover"))
    allow_egress = {
        "metadata": {"name": "allow-egress", "namespace": "flux-system"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
    }
    flux_pod = Identity("pod", "source-controller", "flux-system")
    both = Policies(clusterwide=(policy,), network=(allow_egress,))
    assert not pod_may(both, flux_pod, UPSTREAM)
    assert pod_may(both, flux_pod, API)
    assert pod_may(both, flux_pod, LOCAL)


def test_an_allow_list_alone_would_not_have_held_flux_back() -> None:
    policy = cilium.policy(Terms("p", (), NOW, 1, "catalyst-cutover"))
    del policy["spec"]["egressDeny"]
    allow_egress = {
        "metadata": {"name": "allow-egress", "namespace": "flux-system"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
    }
    both = Policies(clusterwide=(policy,), network=(allow_egress,))
    assert pod_may(both, Identity("pod", "source-controller", "flux-system"), UPSTREAM)


def test_what_the_description_allows_stays_open() -> None:
    policy = cilium.policy(Terms("p", ("198.51.100.0/28",), NOW, 1, "catalyst-cutover"))
    assert pod_may(Policies(clusterwide=(policy,)), Identity("pod", "a", "b"), UPSTREAM)


def test_a_block_without_a_readable_end_counts_as_expired() -> None:
    policy = cilium.policy(Terms("p", (), NOW, 1, "m"))
    assert not block.expired(policy, NOW - timedelta(seconds=1))
    assert block.expired(policy, NOW)
    policy["metadata"]["annotations"] = {}
    assert block.expired(policy, NOW - timedelta(days=1))


def test_nodes_stay_in_reach_of_each_other_and_of_every_pod() -> None:
    node = {
        "spec": {"podCIDRs": ["10.42.0.0/24"]},
        "status": {"addresses": [{"type": "ExternalIP", "address": "203.0.113.7"}]},
    }
    assert block.open_addresses([node], ("192.0.2.0/24",)) == (
        "10.42.0.0/24",
        "203.0.113.7/32",
        "192.0.2.0/24",
    )


CRDS = Path(__file__).parents[4] / "../shared/data/crds/cilium"


@pytest.mark.skipif(not CRDS.is_dir(), reason="the published schemas are not beside this checkout")
@pytest.mark.parametrize("allow", [(), ("203.0.113.0/24", "2001:db8::/32")])
def test_ciliums_own_schema_accepts_the_policy_and_knows_every_field(allow: tuple[str, ...]) -> None:
    definition = json.loads((CRDS / "ciliumclusterwidenetworkpolicy.json").read_text(encoding="utf-8"))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    policy = cilium.policy(Terms("p", allow, NOW, 1, "catalyst-cutover"))
    # Not `validate`: the schema holds a pattern in Go's dialect, which we never meet.
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(policy)) == []
    rules = schema["properties"]["spec"]["properties"]
    assert policy["spec"].keys() <= rules.keys()
    for section in ("egress", "egressDeny"):
        known = rules[section]["items"]["properties"].keys()
        assert all(rule.keys() <= known for rule in policy["spec"][section])
