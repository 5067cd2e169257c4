"""Step 4's decisions: which plan, who holds it, what a Pod's state says about a pull."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.nodes import NodeReport, Turn
from workers.adapters.containerd import plan_digest
from workers.errors import Stuck, Wait
from workers.node_log import current
from workers.proof import pods, pulls
from workers.proof.pulls import Outcome, outcome
from workers.sovereign import Gitea, Harbor, Login, Sovereign, Upstream
from workers.steps import registry_pivot
from workers.steps.registry_pivot import logins, waves

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


def test_an_answer_from_before_the_node_was_made_is_another_machines() -> None:
    def node(name: str, made: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "creationTimestamp": made}}

    reports = {"kept": reported("kept", "d"), "new": reported("new", "d")}
    nodes = [node("kept", "2025-06-01T00:00:00Z"), node("new", "2026-01-01T00:02:00Z")]
    assert current(nodes, reports).keys() == {"kept"}


def test_a_healthy_worker_goes_first_unless_one_is_named() -> None:
    def node(name: str, *, ready: bool = True, control: bool = False, cordoned: bool = False) -> dict[str, Any]:
        labels = {waves.CONTROL_PLANE: "true"} if control else {}
        condition = {"type": "Ready", "status": "True" if ready else "Unknown"}
        spec = {"unschedulable": True} if cordoned else {}
        return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"conditions": [condition]}}

    nodes = [node("a", control=True), node("b", ready=False), node("c", cordoned=True), node("d")]
    assert waves.canary(nodes, None) == "d"
    assert waves.canary(nodes[:3], None) == "c"
    assert waves.canary(nodes[:2], None) == "a"
    assert waves.canary(nodes, "b") == "b"
    with pytest.raises(Stuck, match=r"NoCanary.*nodes\.canary is x"):
        waves.canary(nodes, "x")


def test_a_turn_only_grows_and_the_last_is_for_nodes_that_are_yet_to_come() -> None:
    turn = Turn(digest="d", nodes=("n0",))
    nodes = [f"n{i}" for i in range(6)]
    sizes = []
    while not turn.everyone:
        before, turn = turn, waves.next_turn(turn, nodes, 2)
        assert turn.everyone or set(before.nodes) < set(turn.nodes)
        sizes.append(len(turn.nodes))
    assert sizes == [3, 5, 0]
    assert turn.admits("of-tomorrow", "d")
    assert not turn.admits("of-tomorrow", "another plan")


def pull_secret(name: str, **auths: Any) -> dict[str, Any]:
    data = base64.b64encode(json.dumps({"auths": auths, "credHelpers": {}}).encode()).decode()
    return {"metadata": {"name": name, "namespace": "ns"}, "data": {".dockerconfigjson": data}}


def test_only_entries_that_the_mirror_would_refuse_are_replaced_in_secrets_that_pods_use() -> None:
    local, vendor = {"username": "robot", "password": "r"}, {"username": "bot", "password": "v"}
    theirs = {"username": "acme", "password": "a"}
    entries = {"ghcr.io": vendor, "https://index.docker.io/v1/": vendor, "registry.acme.test": theirs}
    used = pull_secret("used", **entries)
    unused, right = pull_secret("unused", **entries), pull_secret("right", **{"ghcr.io": local})
    keys, hosts = {("ns", "used"), ("ns", "right")}, {"ghcr.io", "docker.io"}
    (mend,) = logins.mends([used, unused, right], keys, hosts, local)
    new = json.loads(base64.b64decode(mend.data))
    assert new["auths"] == {"ghcr.io": local, "https://index.docker.io/v1/": local, "registry.acme.test": theirs}
    assert new["credHelpers"] == {}
    assert str(mend) == "ns/used (docker.io, ghcr.io)"
    unreadable = {**used, "data": {".dockerconfigjson": "!"}}
    with pytest.raises(Stuck, match=r"PullSecretUnreadable.*ns/used"):
        logins.mends([unreadable], keys, hosts, local)


def test_the_older_spelling_of_a_pull_secret_is_mended_too() -> None:
    local, vendor = {"username": "robot", "password": "r"}, {"username": "bot", "password": "v"}
    text = base64.b64encode(json.dumps({"https://ghcr.io": vendor, "registry.acme.test": vendor}).encode()).decode()
    old = {"metadata": {"name": "old", "namespace": "ns"}, "data": {".dockercfg": text}}
    (mend,) = logins.mends([old], {("ns", "old")}, {"ghcr.io"}, local)
    assert json.loads(base64.b64decode(mend.data)) == {"https://ghcr.io": local, "registry.acme.test": vendor}


def test_an_entry_for_many_hosts_stays_and_the_mapped_host_gets_its_own_before_it() -> None:
    local, theirs = {"username": "robot", "password": "r"}, {"username": "acme", "password": "a"}
    used = pull_secret("used", **{"*.io": theirs, "*.aws": theirs})
    (mend,) = logins.mends([used], {("ns", "used")}, {"ghcr.io", "public.ecr.aws", "registry.k8s.io"}, local)
    new = json.loads(base64.b64decode(mend.data))["auths"]
    assert new == {"*.io": theirs, "*.aws": theirs, "ghcr.io": local}
    again = pull_secret("used", **new)
    assert logins.mends([again], {("ns", "used")}, {"ghcr.io", "public.ecr.aws"}, local) == []


def test_who_will_write_a_secret_again_is_named_with_it() -> None:
    used = pull_secret("used", **{"ghcr.io": {"auth": "x"}})
    used["metadata"]["ownerReferences"] = [{"kind": "ExternalSecret", "name": "vault-ghcr"}]
    (mend,) = logins.mends([used], {("ns", "used")}, {"ghcr.io"}, {"username": "robot"})
    assert str(mend) == "ns/used (ghcr.io) (made by ExternalSecret vault-ghcr: change it there too)"


def test_pull_secrets_are_found_in_pods_templates_cron_jobs_and_service_accounts() -> None:
    spec = {"imagePullSecrets": [{"name": "s"}]}
    shapes: dict[str, dict[str, Any]] = {
        "pod": {"spec": spec},
        "deployment": {"spec": {"template": {"spec": spec}}},
        "cron": {"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}},
        "account": spec,
        "none": {"spec": {}},
    }
    objects = [{"metadata": {"name": k, "namespace": k}, **v} for k, v in shapes.items()]
    assert {namespace for namespace, _ in logins.named(objects)} == {"pod", "deployment", "cron", "account"}


def fetching(kind: str, said: str, namespace: str = "ns", **spec: Any) -> dict[str, Any]:
    metadata = {"name": "x", "namespace": "" if "packagePullSecrets" in spec else namespace}
    where = "package" if "packagePullSecrets" in spec else "url"
    return {"kind": kind, "metadata": metadata, "spec": {where: said, **spec}}


def test_secrets_stay_with_which_flux_and_crossplane_still_go_where_step_6_will_change() -> None:
    login, pulls_with = {"secretRef": {"name": "s"}}, {"packagePullSecrets": [{"name": "a"}, {"name": "b"}]}
    crossplane = SOVEREIGN.proof.crossplane[0]
    assert logins.fetched_with([fetching("HelmRepository", "oci://ghcr.io/x", **login)], SOVEREIGN) == {("ns", "s")}
    assert logins.fetched_with([fetching("OCIRepository", "oci://docker.io/x/y", **login)], SOVEREIGN) == {("ns", "s")}
    for kind in ("Provider", "Configuration", "Function"):
        package = fetching(kind, "xpkg.upbound.io/x/y:v1", **pulls_with)
        assert logins.fetched_with([package], SOVEREIGN) == {(crossplane, "a"), (crossplane, "b")}
        package["status"] = {"resolvedPackage": "harbor.sovereign.test/proxy-xpkg/x/y:v1"}
        assert logins.fetched_with([package], SOVEREIGN) == frozenset(), "an ImageConfig sends it to local Harbor"
    local = fetching("HelmRepository", "oci://harbor.sovereign.test/openova-io", **login)
    third = fetching("HelmRepository", "oci://charts.acme.test/x", **login)
    assert logins.fetched_with([local, third], SOVEREIGN) == frozenset(), "step 6 will not come by"


class Listing:
    """An API server that lists what it serves, keeps what is patched, and refuses whatever else is listed."""

    def __init__(self, **objects: list[dict[str, Any]]) -> None:
        self.objects = objects
        self.served_besides: set[str] = set()

    async def served(self, kind: Any) -> bool:
        return kind.kind in self.objects or kind.kind in self.served_besides

    async def list(self, kind: Any, namespace: str | None = None, labels: str | None = None) -> list[dict[str, Any]]:
        if kind.kind in self.served_besides:
            raise Stuck("ApiForbidden", f"list {kind.resource}")
        return self.objects.get(kind.kind, [])

    async def get(self, kind: Any, name: str, namespace: str) -> dict[str, Any]:
        login = {"username": "robot$cutover-pull", "password": "p"}
        return pull_secret(name, **{SOVEREIGN.harbor.host: login})

    async def patch(self, kind: Any, name: str, namespace: str, body: dict[str, Any]) -> None:
        secret = next(s for s in self.objects[kind.kind] if logins.key_of(s) == (namespace, name))
        secret["data"] |= body["data"]


async def test_what_crossplane_still_goes_upstream_with_is_not_given_local_harbors_login() -> None:
    where = SOVEREIGN.proof.crossplane[0]
    secrets = [pull_secret(name, **{"xpkg.upbound.io": {"auth": "dGhlaXJz"}}) for name in ("pkg-pull", "own")]
    for secret in secrets:
        secret["metadata"] |= {"namespace": where, "resourceVersion": "1"}
    user = {"metadata": {"name": "p", "namespace": where}, "imagePullSecrets": [{"name": "pkg-pull"}, {"name": "own"}]}
    package = fetching("Provider", "xpkg.upbound.io/x/y:v1", packagePullSecrets=[{"name": "pkg-pull"}])
    cluster = Listing(ServiceAccount=[user], Provider=[package], Secret=secrets)
    world: Any = SimpleNamespace(sovereign=SOVEREIGN, cluster=cluster)
    said: list[str] = []

    async def report(progress: Any) -> None:
        said.append(progress.message)

    assert await logins.mend(world, registry_pivot.plan(SOVEREIGN), report) == (f"{where}/own (xpkg.upbound.io)",)
    assert said[0].startswith(f"pull secrets {where}/pkg-pull stay until step 6: Flux or Crossplane still fetches")
    assert pull_secret("x", **{"xpkg.upbound.io": {"auth": "dGhlaXJz"}})["data"] == secrets[0]["data"]


async def test_a_scanner_that_no_step_makes_local_is_told_of_changed_pull_secrets_and_not_listed() -> None:
    cluster = Listing()
    world: Any = SimpleNamespace(sovereign=SOVEREIGN, cluster=cluster)
    assert await logins.remarks(world, ["ns/used (ghcr.io)"]) == []
    cluster.served_besides.add("ImageRepository")
    assert await logins.remarks(world, []) == []
    (told,) = await logins.remarks(world, ["ns/used (ghcr.io)"])
    assert "an ImageRepository that signs in upstream with one of these is refused there now" in told


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


IMAGE = "ghcr.io/openova-io/cutover-negative:upstream-only"
FAILED = f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": '
TOKEN = "https://ghcr.io/token?scope=repository%3Aopenova-io%2Fcutover-negative%3Apull&service=ghcr.io"
LOCAL = "https://harbor.sovereign.test/v2/proxy-ghcr/openova-io/cutover-negative/manifests/upstream-only?ns=ghcr.io"
UPSTREAM_SAYS = [
    f"{FAILED}failed to authorize: failed to fetch anonymous token: unexpected status from GET request to {TOKEN}: "
    "401 Unauthorized",
    f"{FAILED}unexpected status from HEAD request to https://ghcr.io/v2/openova-io/x/manifests/1: 403 Forbidden",
    f'{FAILED}failed to do request: Head "https://ghcr.io/v2/openova-io/x/manifests/1": dial tcp: i/o timeout',
    f'{FAILED}failed to do request: Head "https://registry-1.docker.io/v2/x/manifests/1": dial tcp: i/o timeout',
    f"{FAILED}unexpected status from GET request to https://auth.docker.io/token?service=x: 429 Too Many Requests",
    f"{FAILED}unexpected status from HEAD request to https://HARBOR.openova.io:443/v2/proxy-ghcr/x/manifests/1: 500",
    f'failed to pull and unpack image "{IMAGE}": no match for platform in manifest: not found',
    f'Back-off pulling image "{IMAGE}": ErrImagePull: {FAILED}unexpected status from HEAD request to https://ghcr.io/v2/'
    f"{'x' * 300}: 401",
]
"""As containerd and kubelet write it (remotes/docker/{resolver,authorizer}.go, kuberuntime_image.go)."""


def upstream_pod(words: str, reason: str = "ErrImagePull") -> dict[str, Any]:
    return pod({"waiting": {"reason": reason, "message": words}}, "upstream", "n1")


@pytest.mark.parametrize("words", UPSTREAM_SAYS)
def test_a_node_that_was_refused_by_upstream_itself_still_asks_there(words: str) -> None:
    one = upstream_pod(words)
    with pytest.raises(Stuck, match=r"PullsStillUpstream.*n1"):
        pulls._check_upstream({pods.key_of(one): one}, [one], IMAGE, pulls.outside(SOVEREIGN))


@pytest.mark.parametrize(
    "words",
    [
        f"{FAILED}{IMAGE}: not found",
        f"{FAILED}unexpected status from HEAD request to {LOCAL}: 403 Forbidden",
        f'{FAILED}failed to do request: Head "{LOCAL}": dial tcp: i/o timeout',
        f"{FAILED}unexpected status from GET request to https://harbor.sovereign.test/service/token?scope=ghcr.io: 401",
        f"{FAILED}unexpected status from HEAD request to https://notghcr.io/v2/x: 404",
    ],
)
def test_a_refusal_that_names_upstream_only_in_the_reference_or_behind_a_mirrors_ns_is_one(words: str) -> None:
    one = upstream_pod(words)
    assert pulls._check_upstream({pods.key_of(one): one}, [one], IMAGE, pulls.outside(SOVEREIGN)).keys() == {"n1"}


def test_between_two_tries_a_kubelet_says_nothing_of_who_refused_and_is_asked_on() -> None:
    one = upstream_pod(f'Back-off pulling image "{IMAGE}"', "ImagePullBackOff")
    with pytest.raises(Wait, match="NegativePullUndecided"):
        pulls._check_upstream({pods.key_of(one): one}, [one], IMAGE, pulls.outside(SOVEREIGN))


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (
            {"refused": "GET token of ghcr.io: 403"},
            r"NegativeNotPublic.*make it public, or name .*nodes\.upstream_only",
        ),
        ({}, r"NegativeMissing.*nodes\.upstream_only"),
        ({"trouble": "ClientConnectorError"}, "UpstreamUnreadable.*ClientConnectorError"),
        (None, "CanarySilent"),
    ],
)
def test_what_upstream_gives_not_to_anybody_proves_nothing_by_being_refused(said: Any, verdict: str) -> None:
    message = "" if said is None else json.dumps({"image": IMAGE, **said})
    with pytest.raises((Stuck, Wait), match=verdict):
        pulls._check_exists(pod({"terminated": {"message": message}}), IMAGE, "n1")
    if said is not None:
        good = json.dumps({"image": IMAGE, "digest": "sha256:1"})
        pulls._check_exists(pod({"terminated": {"message": good}}), IMAGE, "n1")


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
