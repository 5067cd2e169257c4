"""Step 4's decisions: which plan, who holds it, what a Pod's state says about a pull."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from schemas.nodes import NodeReport
from workers.adapters.containerd import plan_digest
from workers.errors import Stuck, Wait
from workers.proof import pods, pulls
from workers.proof.pulls import Outcome, outcome
from workers.sovereign import Gitea, Harbor, Login, Sovereign, Upstream
from workers.steps import registry_pivot

LOGIN = Login(username="robot", password_file=Path("/nowhere"))
SOVEREIGN = Sovereign(
    fqdn="sovereign.test",
    gitea=Gitea(url="http://gitea:3000", login=LOGIN),
    harbor=Harbor(url="http://harbor", host="harbor.sovereign.test", login=LOGIN),
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def reported(node: str, digest: str, result: Any = "v2", message: str = "") -> NodeReport:
    return NodeReport(node=node, digest=digest, result=result, message=message, at=NOW)


def pod(state: dict[str, Any], purpose: str = "local", node: str = "n1") -> dict[str, Any]:
    made = pods.manifest(namespace="ns", purpose=purpose, node=node, token=7, turn="t", image="x/y:z", pull="Always")
    made["status"] = {"containerStatuses": [{"name": "try", "state": state}]}
    return made


def test_every_mapped_host_and_the_mothership_lead_to_local_harbor() -> None:
    mirrors = {m.host: m.endpoint for m in registry_pivot.plan(SOVEREIGN).mirrors}
    assert mirrors["ghcr.io"] == "https://harbor.sovereign.test/v2/proxy-ghcr"
    assert {u.host for u in SOVEREIGN.upstreams} | {"harbor.openova.io"} == mirrors.keys()
    assert mirrors["harbor.openova.io"] == "https://harbor.sovereign.test/v2"
    assert all(e.startswith("https://harbor.sovereign.test/v2") for e in mirrors.values())


def test_a_mapping_of_the_mothership_in_the_description_is_taken_as_it_stands() -> None:
    own = Upstream(host="harbor.openova.io", project="proxy-mothership")
    sovereign = SOVEREIGN.model_copy(update={"upstreams": (*SOVEREIGN.upstreams, own)})
    mirrors = [m.endpoint for m in registry_pivot.plan(sovereign).mirrors if m.host == own.host]
    assert mirrors == ["https://harbor.sovereign.test/v2/proxy-mothership"]


def test_a_node_counts_only_when_it_says_that_it_holds_this_very_plan() -> None:
    digest = plan_digest(registry_pivot.plan(SOVEREIGN))
    reports = {
        "good": reported("good", digest),
        "old": reported("old", "sha256:older"),
        "broken": reported("broken", digest, "failed", "disk full"),
    }
    nodes = ("good", "old", "broken", "silent")
    assert registry_pivot.holding(nodes, reports, digest) == {"good"}
    late = registry_pivot.laggards(nodes, reports, digest)
    assert late.keys() == {"old", "broken", "silent"}
    assert "disk full" in late["broken"]
    assert "never reported" in late["silent"]


def test_the_digest_changes_when_one_endpoint_does() -> None:
    plan = registry_pivot.plan(SOVEREIGN)
    other = plan.model_copy(update={"mirrors": plan.mirrors[1:]})
    assert plan_digest(plan) != plan_digest(other)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"running": {}}, Outcome.PULLED),
        ({"terminated": {"exitCode": 128, "reason": "StartError"}}, Outcome.PULLED),
        ({"waiting": {"reason": "CreateContainerError"}}, Outcome.PULLED),
        ({"waiting": {"reason": "ErrImagePull", "message": "not found"}}, Outcome.REFUSED),
        ({"waiting": {"reason": "ImagePullBackOff"}}, Outcome.REFUSED),
        ({"waiting": {"reason": "ContainerCreating"}}, Outcome.PENDING),
        ({"waiting": {"reason": "InvalidImageName"}}, Outcome.PENDING),
        ({"waiting": {"reason": "ErrImageNeverPull"}}, Outcome.PENDING),
        ({}, Outcome.PENDING),
    ],
)
def test_only_a_pull_that_was_tried_and_failed_is_a_refusal(state: dict[str, Any], expected: Outcome) -> None:
    assert outcome(pod(state))[0] is expected


def test_the_probe_is_asked_for_in_the_name_of_a_mapped_upstream_host() -> None:
    place = pulls.probe(SOVEREIGN, "7-pivot-ab")
    assert place.image == "ghcr.io/openova-io/cutover-probe:7-pivot-ab"
    assert place.repository == "proxy-ghcr/openova-io/cutover-probe"


def test_without_a_project_for_the_probes_host_the_step_says_which_setting_is_missing() -> None:
    sovereign = SOVEREIGN.model_copy(update={"upstreams": ()})
    with pytest.raises(Stuck, match="HostNotMapped"):
        pulls.probe(sovereign, "1")


def test_a_node_that_pulled_what_only_upstream_has_is_named() -> None:
    good = pod({"waiting": {"reason": "ErrImagePull"}}, "upstream", "n1")
    leak = pod({"terminated": {"exitCode": 0}}, "upstream", "n2")
    seen = {pods.key_of(p): p for p in (good, leak)}
    with pytest.raises(Stuck, match=r"PullsStillUpstream.*n2"):
        pulls._check_upstream(seen, [good, leak], "ghcr.io/x:y")


def test_a_negative_pull_that_never_ran_is_not_a_refusal() -> None:
    waiting = pod({}, "upstream", "n1")
    with pytest.raises(Wait, match="NegativePullUndecided"):
        pulls._check_upstream({pods.key_of(waiting): waiting}, [waiting], "ghcr.io/x:y")
    with pytest.raises(Wait, match="NegativePullUndecided"):
        pulls._check_upstream({}, [waiting], "ghcr.io/x:y")


def test_a_local_pull_that_failed_is_told_in_the_kubelets_words() -> None:
    failed = pod({"waiting": {"reason": "ErrImagePull", "message": "401 Unauthorized"}})
    with pytest.raises(Stuck, match="401 Unauthorized"):
        pulls._check_local({pods.key_of(failed): failed}, [failed], "ghcr.io/x:y")


def test_a_probe_pod_is_bound_to_its_node_and_carries_the_fencing_token() -> None:
    made = pod({}, node="a-node-with-a-very-long-name." * 5)
    assert made["spec"]["nodeName"].startswith("a-node")
    assert made["metadata"]["labels"][pods.TOKEN] == "7"
    assert "-7-" in made["metadata"]["name"]
    assert len(made["metadata"]["name"]) <= 63
    assert not made["spec"]["automountServiceAccountToken"]
    assert "imagePullSecrets" not in made["spec"]
