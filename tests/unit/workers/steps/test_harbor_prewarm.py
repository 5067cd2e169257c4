"""What is on the list, where it goes, and from where it may come."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from workers.adapters.oci import BadReference, CopyPlan, Meter, Reference, What, local_repository
from workers.adapters.oci.copying import upstream_verdict
from workers.adapters.oci.manifest import Descriptor
from workers.adapters.oci.places import origins
from workers.adapters.oci.trouble import Denied, Missing, Patience, Unavailable, WrongBytes, retry_after
from workers.errors import Stuck, Wait
from workers.needs import Need, listing, needs_of, read_tree
from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.steps.harbor_prewarm import plan, result

LOGIN = Login(username="admin", password_file=Path("password"))
SOVEREIGN = Sovereign(
    fqdn="sovereign.test",
    gitea=Gitea(url="http://gitea", login=LOGIN),
    harbor=Harbor(url="http://harbor", host="harbor.sovereign.test", login=LOGIN),
)
DIGEST = "sha256:" + "a" * 64
DATA = Path(__file__).parents[4] / "../shared/data/openova-clusters"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("nats", "docker.io/library/nats:latest"),
        ("nats:2", "docker.io/library/nats:2"),
        ("grafana/loki:3", "docker.io/grafana/loki:3"),
        ("index.docker.io/grafana/loki:3", "docker.io/grafana/loki:3"),
        ("localhost/x:1", "localhost/x:1"),
        ("reg:5000/x", "reg:5000/x:latest"),
        (f"ghcr.io/a/b:1@{DIGEST}", f"ghcr.io/a/b:1@{DIGEST}"),
        (f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}"),
    ],
)
def test_references_are_read_as_containerd_reads_them(text: str, whole: str) -> None:
    assert str(Reference.parse(text)) == whole


@pytest.mark.parametrize("text", ["", "ghcr.io/a/b:${TAG}", "ghcr.io/A/b", "a@sha256:12", "https://x/y", "a:"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(BadReference):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "what", "local"),
    [
        ("ghcr.io/openova-io/openova/api:1", What.IMAGE, "proxy-ghcr/openova-io/openova/api"),
        ("ghcr.io/openova-io/bp-x:1", What.CHART, "openova-io/bp-x"),
        ("ghcr.io/stefanprodan/podinfo:1", What.CHART, "proxy-ghcr/stefanprodan/podinfo"),
        ("nats:2", What.IMAGE, "proxy-docker/library/nats"),
        ("harbor.openova.io/proxy-x/a/b:1", What.IMAGE, "proxy-x/a/b"),
        ("harbor.sovereign.test/openova-io/bp-x:1", What.CHART, "openova-io/bp-x"),
        ("xpkg.upbound.io/a/b:1", What.PACKAGE, "proxy-xpkg/a/b"),
        ("cgr.dev/x/y:1", What.IMAGE, None),
    ],
)
def test_every_reference_has_one_place_in_local_harbor(text: str, what: What, local: str | None) -> None:
    assert local_repository(SOVEREIGN, Reference.parse(text), what) == local


def test_the_mothership_comes_first_only_when_it_is_described() -> None:
    image = Reference.parse("nats:2")
    assert [(o.url, o.repository) for o in origins(SOVEREIGN, image, What.IMAGE)] == [
        ("https://registry-1.docker.io", "library/nats")
    ]
    described = SOVEREIGN.model_copy(update={"mothership_endpoint": "http://m"})
    assert [(o.url, o.repository) for o in origins(described, image, What.IMAGE)] == [
        ("http://m", "proxy-docker/library/nats"),
        ("https://registry-1.docker.io", "library/nats"),
    ]


def test_a_local_chart_is_traced_back_to_where_it_came_from() -> None:
    chart = Reference.parse("harbor.sovereign.test/openova-io/bp-x:1")
    assert [(o.url, o.repository) for o in origins(SOVEREIGN, chart, What.CHART)] == [
        ("https://ghcr.io", "openova-io/bp-x")
    ]


def test_a_path_of_the_mothership_is_traced_to_the_upstream_that_its_project_stands_for() -> None:
    image = Reference.parse("harbor.openova.io/proxy-quay/a/b:1")
    urls = [o.url for o in origins(SOVEREIGN, image, What.IMAGE)]
    assert urls == ["https://harbor.openova.io", "https://quay.io"]


def listed(*spelled: str) -> tuple[Any, tuple[str, ...]]:
    return listing(SOVEREIGN, [Need(What.IMAGE, s, f"because of {n}") for n, s in enumerate(spelled)])


def test_one_thing_is_listed_once_with_every_spelling_and_reason() -> None:
    [item], notices = listed("nats:2", "docker.io/library/nats:2", "nats:2")
    assert item.spelled == ("nats:2", "docker.io/library/nats:2")
    assert item.reasons == ("because of 0", "because of 1", "because of 2")
    assert notices == ()


def test_the_negative_control_and_local_images_are_not_on_the_list() -> None:
    items, notices = listed(SOVEREIGN.nodes.upstream_only, "harbor.sovereign.test/openova-io/probe:1")
    assert (items, notices) == ((), ())


def test_what_cannot_be_read_is_left_out_aloud() -> None:
    items, [notice] = listed("ghcr.io/a/b:${TAG}")
    assert items == ()
    assert "because of 0" in notice


def test_all_unmapped_hosts_are_named_at_once() -> None:
    items, _ = listed("cgr.dev/x/y:1", "nats", "litmuschaos.docker.scarf.sh/a/b:1")
    with pytest.raises(Stuck, match=r"UnmappedHost.*cgr\.dev/x/y:1.*litmuschaos\.docker\.scarf\.sh/a/b:1"):
        plan(SOVEREIGN, items)


def workload(kind: str, spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "x", "namespace": "n"}, "spec": spec, "status": status}


POD_SPEC = {
    "initContainers": [{"image": "a/init:1"}],
    "containers": [{"image": "a/main:1"}],
    "ephemeralContainers": [{"image": "a/debug:1"}],
    "volumes": [{"image": {"reference": "a/volume:1"}}, {"emptyDir": {}}],
}


@pytest.mark.parametrize(
    "obj",
    [
        workload("Pod", POD_SPEC),
        workload("Deployment", {"template": {"spec": POD_SPEC}}),
        workload("CronJob", {"jobTemplate": {"spec": {"template": {"spec": POD_SPEC}}}}),
    ],
    ids=lambda o: o["kind"],
)
def test_every_image_of_a_pod_or_template_is_needed(obj: dict[str, Any]) -> None:
    found = needs_of([obj], "live").found
    assert [n.spelled for n in found] == ["a/init:1", "a/main:1", "a/debug:1", "a/volume:1"]
    assert found[0].reason == f"live: {obj['kind']} n/x"


def test_a_pod_that_is_over_needs_nothing() -> None:
    assert needs_of([workload("Pod", POD_SPEC, phase="Succeeded")], "live").found == ()


def release(version: str, **spec: Any) -> dict[str, Any]:
    chart = {"chart": "bp-x", "version": version, "sourceRef": {"kind": "HelmRepository", "name": "r"}}
    return workload("HelmRelease", {"chart": {"spec": chart}, **spec})


def repository(url: str) -> dict[str, Any]:
    return {"kind": "HelmRepository", "metadata": {"name": "r", "namespace": "n"}, "spec": {"url": url}}


def test_a_pinned_chart_is_needed_from_its_repository_and_plus_becomes_underscore() -> None:
    found = needs_of([release("1.2.3+build"), repository("oci://ghcr.io/openova-io/")], "live").found
    assert found == (Need(What.CHART, "ghcr.io/openova-io/bp-x:1.2.3_build", "live: HelmRelease n/x"),)


@pytest.mark.parametrize("version", ["v1.14.0", "1.0.0-experimental.1", "1.2.3-x86-linux", "0.0.1+x", "v2.0.0-rc.1+X"])
def test_one_version_is_a_pin_whatever_letters_it_has(version: str) -> None:
    needs = needs_of([release(version), repository("oci://ghcr.io/a")], "live")
    assert [n.spelled for n in needs.found] == [f"ghcr.io/a/bp-x:{version.replace('+', '_')}"]
    assert needs.notices == ()


@pytest.mark.parametrize(
    "version", ["", "*", "1", "1.2", "1.x", "1.2.X", "~1.2.3", "^1", ">=1.0.0 <2", "1.0.0 - 2.0.0", "1 || 2"]
)
def test_what_many_versions_satisfy_is_no_pin_and_told(version: str) -> None:
    needs = needs_of([release(version), repository("oci://ghcr.io/a")], "live")
    assert needs.found == ()
    assert "is a range, not a pin" in needs.notices[0]


def test_the_version_that_runs_is_needed_beside_the_one_that_is_wanted() -> None:
    failed, runs = {"chartVersion": "1.2.0", "status": "failed"}, {"chartVersion": "1.1.0", "status": "deployed"}
    for wanted, versions in (("1.2.0", ["1.2.0", "1.1.0"]), ("1.x", ["1.1.0"]), ("1.1.0", ["1.1.0"])):
        live = {**release(wanted), "status": {"history": [failed, runs]}}
        found = needs_of([live, repository("oci://ghcr.io/openova-io")], "live").found
        assert [n.spelled.rpartition(":")[2] for n in found] == versions
    assert found[0].reason == "live: HelmRelease n/x"


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([release(">=1.0"), repository("oci://g.io/x")], "range"),
        ([release("1.x"), repository("oci://g.io/x")], "range"),
        ([release("1.0.0")], "is not there"),
        ([release("1.0.0"), repository("https://charts.example")], "no OCI registry"),
    ],
)
def test_a_chart_that_cannot_be_kept_is_said(objects: list[dict[str, Any]], words: str) -> None:
    needs = needs_of(objects, "live")
    assert needs.found == ()
    assert words in needs.notices[0]


def test_images_in_chart_values_are_needed_whole_or_in_parts() -> None:
    values = {
        "image": "ghcr.io/a/b:1",
        "sidecars": [{"initImage": {"registry": "mirror.gcr.io", "repository": "c/d", "tag": "2"}}],
        "other": {"image": {"repository": "no/tag"}, "pullPolicy": "x/y"},
    }
    objects = [release("1.0.0", values=values), repository("oci://g.io/x")]
    images = [n.spelled for n in needs_of(objects, "live").found if n.what is What.IMAGE]
    assert images == ["ghcr.io/a/b:1", "mirror.gcr.io/c/d:2"]


def test_packages_without_a_host_are_upbounds() -> None:
    obj = {"kind": "Provider", "metadata": {"name": "p"}, "spec": {"package": "crossplane-contrib/p:v1"}}
    [need] = needs_of([obj], "live").found
    assert (need.what, need.spelled) == (What.PACKAGE, "xpkg.upbound.io/crossplane-contrib/p:v1")


def test_the_real_template_pins_35_charts_and_one_package() -> None:
    if not DATA.exists():
        pytest.skip("the real bootstrap-kit is not here")
    needs = read_tree(DATA, "_template/bootstrap-kit", {"SOVEREIGN_FQDN": "sovereign.test"})
    kinds = [n.what for n in needs.found]
    assert (kinds.count(What.CHART), kinds.count(What.PACKAGE)) == (35, 1)


def test_the_meter_never_runs_backwards_though_a_blob_begins_again() -> None:
    meter = Meter(bytes_total=100, items_total=1)
    heard = meter.heard("a")
    shown = []
    for passed in (30, 60, 0, 10, 60):
        heard(passed)
        shown.append(meter.shown)
    meter.arrived(Descriptor("a", 60))
    assert shown == [30, 60, 60, 60, 60]
    assert (meter.shown, meter.moved) == (60, 60)


def test_an_empty_plan_is_nothing_to_move() -> None:
    nothing = result([], CopyPlan(()), 0, ())
    assert (nothing.changes, nothing.bytes_moved) == (0, 0)
    assert "nothing to move, 0 bytes" in nothing.summary


@pytest.mark.parametrize(
    ("troubles", "kind", "reason"),
    [
        ([Missing("m")], Stuck, "ReferenceNotFound"),
        ([Missing("m"), Denied("d")], Stuck, "UpstreamDenied"),
        ([Missing("m"), Unavailable("u")], Wait, "UpstreamUnavailable"),
        ([WrongBytes("w"), Missing("m")], Stuck, "DigestMismatch"),
    ],
)
def test_a_person_is_called_only_when_no_place_may_still_answer(
    troubles: list[Exception], kind: type[Exception], reason: str
) -> None:
    trouble = upstream_verdict("ghcr.io/a/b:1", troubles)
    assert isinstance(trouble, kind)
    assert trouble.reason == reason
    assert "ghcr.io/a/b:1" in trouble.message


def test_a_long_wait_is_left_to_the_pool() -> None:
    patience = Patience(attempts=3, first=1, longest=20)
    assert patience.pause(1, 21) is None
    assert patience.pause(3, None) is None
    pause = patience.pause(2, 5)
    assert pause is not None
    assert 5 <= pause <= 20


def test_retry_after_is_a_number_or_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after("7", now) == 7
    assert retry_after("Thu, 01 Jan 2026 00:00:30 GMT", now) == 30
    assert retry_after("soon", now) is None
    assert retry_after(None, now) is None
