"""Step 6's decisions: which sources change and to what, which charts are stale, which credentials go."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from workers.errors import Stuck
from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.steps.helmrepo_patches import plan
from workers.steps.helmrepo_patches.charts import differences, fetches, moved, other_versions, stale
from workers.steps.helmrepo_patches.packages import image_configs, installed, rewritable
from workers.steps.helmrepo_patches.sources import pinned
from workers.supply.pull_secrets import Lent, entry, lent, pull_secret, strips
from workers.supply.sources import host_asked, local_address, resolved_locally
from workers.tethers import auths_of

LOGIN = Login(username="u", password_file=Path("/absent"))
HOST = "harbor.sov.test"
KUSTOMIZE = {"kustomize.toolkit.fluxcd.io/name": "kit", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
RELEASE = {"helm.toolkit.fluxcd.io/name": "rel", "helm.toolkit.fluxcd.io/namespace": "flux-system"}


def sovereign(**harbor: Any) -> Sovereign:
    return Sovereign(
        fqdn="sov.test",
        gitea=Gitea(url="http://127.0.0.1:1", login=LOGIN),
        harbor=Harbor(url="http://127.0.0.1:2", host=HOST, login=LOGIN, **harbor),
    )


def source(kind: str, name: str = "bp-x", labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "flux-system", "labels": labels or {}}, "spec": spec}


def helm(url: str = "oci://ghcr.io/openova-io", **more: Any) -> dict[str, Any]:
    return source("HelmRepository", url=url, type="oci", **more)


def planned(obj: dict[str, Any], of: Sovereign | None = None, public: tuple[str, ...] = ("openova-io",)) -> Any:
    ((change, _),) = plan([obj], of or sovereign(), public=public, releases={}).changes
    return change


@pytest.mark.parametrize(
    ("said", "local"),
    [
        ("oci://ghcr.io/openova-io", f"{HOST}/openova-io"),
        ("oci://ghcr.io/openova-io/", f"{HOST}/openova-io"),
        ("oci://ghcr.io/openova-io/charts", f"{HOST}/openova-io/charts"),
        ("https://ghcr.io/openova-io", f"{HOST}/openova-io"),
        ("oci://ghcr.io/openova-io-fork", f"{HOST}/proxy-ghcr/openova-io-fork"),
        ("oci://public.ecr.aws/karpenter", f"{HOST}/proxy-ecr/karpenter"),
        ("xpkg.upbound.io/crossplane-contrib/p:v1", f"{HOST}/proxy-xpkg/crossplane-contrib/p:v1"),
        ("crossplane-contrib/p:v1", f"{HOST}/proxy-xpkg/crossplane-contrib/p:v1"),
        ("harbor.openova.io/proxy-ghcr/a/b:1", f"{HOST}/proxy-ghcr/a/b:1"),
        ("oci://GHCR.io/openova-io", f"{HOST}/openova-io"),
        ("oci://ghcr.io:443/openova-io", f"{HOST}/openova-io"),
        ("oci://registry-1.docker.io/bitnamicharts", f"{HOST}/proxy-docker/bitnamicharts"),
        ("oci://index.docker.io/x", f"{HOST}/proxy-docker/x"),
        ("registry-1.docker.io:443/a/b:1", f"{HOST}/proxy-docker/a/b:1"),
        ("oci://HARBOR.openova.io:443/proxy-ghcr/a", f"{HOST}/proxy-ghcr/a"),
        ("oci://ghcr.io:5000/openova-io", None),
        ("http://ghcr.io:443/openova-io", None),
        ("oci://harbor.sov.test/openova-io", None),
        ("https://charts.loft.sh", None),
        ("https://quay.io/charts", None),
        ("oci://registry.example/x", None),
    ],
)
def test_an_address_has_one_local_place_or_is_none_of_the_mothership_s(said: str, local: str | None) -> None:
    assert local_address(said, sovereign()) == local


@given(
    st.sampled_from(["oci://ghcr.io/openova-io", "oci://quay.io/a", "gcr.io/x/y:1", "a/b:v1"]),
    st.text("abc/", max_size=9),
)
def test_a_local_address_is_never_moved_again(base: str, rest: str) -> None:
    moved_to = local_address(f"{base}/{rest}", sovereign())
    assert moved_to is not None
    assert host_asked(moved_to) == HOST
    assert local_address(f"oci://{moved_to}", sovereign()) is None


def test_url_and_pull_secret_change_together() -> None:
    repository = helm(secretRef={"name": "ghcr-pull"})
    public, private = planned(repository), planned(repository, public=())
    assert public.fields == {("spec", "url"): f"oci://{HOST}/openova-io", ("spec", "type"): "oci"}
    assert public.absent == (("spec", "secretRef"),)
    assert private.fields["spec", "secretRef", "name"] == "cutover-harbor-pull"
    assert private.absent == ()


def test_plain_http_and_a_private_ca_are_said_on_every_source() -> None:
    assert planned(helm(), sovereign(scheme="http")).fields["spec", "insecure"] is True
    with_ca = planned(helm(insecure=True), sovereign(ca_file="/ca.crt"))
    assert with_ca.fields["spec", "certSecretRef", "name"] == "cutover-harbor-pull-ca"
    assert with_ca.fields["spec", "insecure"] is False


def test_a_package_changes_only_its_reference() -> None:
    change = planned(source("Provider", "p", package="xpkg.upbound.io/crossplane-contrib/p:v1"))
    assert change.fields == {("spec", "package"): f"{HOST}/proxy-xpkg/crossplane-contrib/p:v1"}


def test_sources_of_third_parties_are_left_alone_and_named() -> None:
    found = plan([helm("https://charts.loft.sh")], sovereign(), public=(), releases={})
    assert found.changes == ()
    assert found.foreign == ("HelmRepository flux-system/bp-x (charts.loft.sh)",)
    assert plan([helm(f"oci://{HOST}/openova-io")], sovereign(), public=(), releases={}).foreign == ()


def test_a_source_of_docker_hub_is_moved_whichever_of_its_names_it_says() -> None:
    for url in ("oci://registry-1.docker.io/bitnamicharts", "oci://docker.io/bitnamicharts"):
        assert planned(helm(url)).fields["spec", "url"] == f"oci://{HOST}/proxy-docker/bitnamicharts"


def test_a_rendered_source_is_changed_in_the_values_that_render_it() -> None:
    rendered = source("HelmRepository", "cat", RELEASE, url="oci://ghcr.io/openova-io", type="oci")
    release = {"metadata": {}, "spec": {"values": {"a": {"url": "oci://ghcr.io/openova-io"}, "b": [{"c": 1}]}}}
    ((change, obj),) = plan([rendered], sovereign(), public=(), releases={("flux-system", "rel"): release}).changes
    assert str(change) == "HelmRelease flux-system/rel"
    assert change.fields == {("spec", "values", "a", "url"): f"oci://{HOST}/openova-io"}
    assert obj is release


@pytest.mark.parametrize("labels", [RELEASE, {"app.kubernetes.io/managed-by": "Helm"}])
def test_a_rendered_source_whose_values_do_not_say_it_is_left_to_a_person(labels: dict[str, str]) -> None:
    rendered = source("HelmRepository", "cat", labels, url="oci://ghcr.io/openova-io")
    releases = {("flux-system", "rel"): {"metadata": {}, "spec": {"values": {}}}}
    with pytest.raises(Stuck, match="RenderedByHelm"):
        plan([rendered], sovereign(), public=(), releases=releases)


# --- charts ---------------------------------------------------------------------------------------------


def chart(fetched: str | None, name: str = "flux-system-x", **more: Any) -> dict[str, Any]:
    artifact = {"lastUpdateTime": fetched, "revision": "1.0.0", "digest": "sha256:a"} if fetched else None
    return {
        "kind": "HelmChart",
        "metadata": {"name": name, "namespace": "flux-system", "uid": "1", **more},
        "spec": {"sourceRef": {"kind": "HelmRepository", "name": "bp-x"}},
        "status": {"artifact": artifact},
    }


def repository_since(time: str) -> dict[str, Any]:
    entry_ = {"manager": "kustomize-controller", "time": time, "fieldsV1": {"f:spec": {"f:url": {}}}}
    return {"metadata": {"name": "bp-x", "namespace": "flux-system", "managedFields": [entry_]}, "spec": {}}


def test_a_chart_is_fresh_only_when_fetched_since_its_repository_points_where_it_does() -> None:
    now = repository_since("2026-04-30T10:00:00Z")
    assert stale(chart("2026-04-30T09:59:59Z"), now)
    assert not stale(chart("2026-04-30T10:00:00Z"), now)
    assert stale(chart(None), now)
    assert stale(chart("2026-04-30T11:00:00Z"), {"metadata": {}, "spec": {}})


def test_each_stale_chart_is_left_to_the_one_who_makes_it_anew() -> None:
    kit = chart("2026-04-30T09:00:00Z", "kit", labels=KUSTOMIZE)
    rel = chart("2026-04-30T09:00:00Z", "flux-system-rel")
    asleep = chart("2026-04-30T09:00:00Z", "flux-system-asleep")
    alone = chart("2026-04-30T09:00:00Z", "alone")
    fresh = chart("2026-04-30T11:00:00Z", "fresh")
    releases = {
        ("flux-system", "rel"): {"spec": {}, "status": {"helmChart": "flux-system/flux-system-rel"}},
        ("flux-system", "asleep"): {
            "spec": {"suspend": True},
            "status": {"helmChart": "flux-system/flux-system-asleep"},
        },
    }
    local = {("flux-system", "bp-x"): repository_since("2026-04-30T10:00:00Z")}
    found = fetches([kit, rel, asleep, alone, fresh], local, releases)
    assert found.by_release == {("flux-system", "flux-system-rel"): ("flux-system", "rel")}
    assert found.by_kustomization == {("flux-system", "kit"): ("flux-system", "kit")}
    assert found.by_us == (("flux-system", "flux-system-asleep"), ("flux-system", "alone"))
    assert found.dormant == ()
    asleep["spec"]["suspend"] = True
    assert fetches([asleep], local, releases).dormant == (("flux-system", "flux-system-asleep"),)
    assert fetches([rel], {}, releases).keys == ()


def test_other_bytes_than_before_are_told_unless_flux_repackages_them() -> None:
    key = ("flux-system", "flux-system-x")
    old, new = chart("2026-04-30T09:00:00Z"), chart("2026-04-30T11:00:00Z")
    assert differences({key: old}, {key: new}) == []
    new["status"]["artifact"]["digest"] = "sha256:b"
    assert len(differences({key: old}, {key: new})) == 1
    old["spec"]["valuesFiles"] = ["v.yaml"]
    assert differences({key: old}, {key: new}) == []


def test_another_version_than_before_is_told() -> None:
    key = ("flux-system", "flux-system-x")
    old, new = chart("2026-04-30T09:00:00Z"), chart("2026-04-30T11:00:00Z")
    assert other_versions({key: old}, {key: new}) == []
    new["status"]["artifact"]["revision"] = "1.0.1"
    assert len(other_versions({key: old}, {key: new})) == 1
    assert other_versions({key: chart(None)}, {key: new}) == []


def test_a_release_that_moved_without_a_reason_is_told() -> None:
    key = ("flux-system", "rel")

    def release(version: int, chart_version: str = "1") -> dict[str, Any]:
        return {"status": {"history": [{"version": version, "chartVersion": chart_version, "chartName": "c"}]}}

    assert moved({key: release(1)}, {key: release(1)}, [key]) == []
    assert moved({key: release(1)}, {key: release(2)}, [key]) == ["flux-system/rel"]
    assert moved({key: release(1)}, {key: release(2, "2")}, [key]) == []
    assert moved({key: {"status": {}}}, {key: release(1)}, [key]) == []


def test_a_package_is_installed_when_crossplane_resolved_this_very_reference() -> None:
    conditions = [{"type": "Installed", "status": "True"}, {"type": "Healthy", "status": "True"}]
    provider = {"metadata": {"name": "p"}, "status": {"currentIdentifier": "h/p:v1", "conditions": conditions}}
    assert installed(provider, "h/p:v1")
    assert not installed(provider, "xpkg.upbound.io/p:v1")
    assert not installed(
        {**provider, "status": {"currentIdentifier": "h/p:v1", "conditions": conditions[:1]}}, "h/p:v1"
    )
    assert not installed(None, "h/p:v1")


# --- credentials ----------------------------------------------------------------------------------------

SHIP = {"username": "bot", "password": "s", "auth": base64.b64encode(b"bot:s").decode()}
OWN = {"auth": base64.b64encode(b"customer:own").decode()}


def secret(name: str, namespace: str, auths: dict[str, Any]) -> dict[str, Any]:
    return pull_secret(name, namespace, auths)


def left(found: list[tuple[dict[str, Any], str]]) -> dict[str, list[str]]:
    return {
        f"{s['metadata']['namespace']}/{s['metadata']['name']}": list(auths_of({"data": {".dockerconfigjson": data}}))
        for s, data in found
    }


def test_the_mothership_s_credentials_go_in_every_namespace_and_under_every_name() -> None:
    secrets = [
        secret("ghcr-pull", "flux-system", {"ghcr.io": SHIP, "harbor.openova.io": SHIP, HOST: OWN}),
        secret("ghcr-pull", "tenant", {"ghcr.io": SHIP}),
        secret("ghcr-pull-secret", "catalyst-system", {"ghcr.io": {"username": "bot", "password": "s"}}),
        secret("referenced", "flux-system", {"xpkg.upbound.io": OWN}),
    ]
    assert left(strips(secrets, sovereign(), {("flux-system", "referenced")}, {})) == {
        "flux-system/ghcr-pull": [HOST],
        "tenant/ghcr-pull": [],
        "catalyst-system/ghcr-pull-secret": [],
        "flux-system/referenced": [],
    }


def test_the_mothership_s_credentials_go_in_the_older_spelling_too() -> None:
    old = {"metadata": {"name": "legacy", "namespace": "shop"}, "data": {}}
    old["data"] = {".dockercfg": base64.b64encode(json.dumps({"ghcr.io": SHIP, "quay.io": OWN}).encode()).decode()}
    found = strips([secret("ghcr-pull", "flux-system", {"ghcr.io": SHIP}), old], sovereign(), (), {})
    ((_, data),) = [pair for pair in found if pair[0] is old]
    assert json.loads(base64.b64decode(data)) == {"quay.io": OWN}


def test_a_customer_s_own_login_upstream_is_no_tether_but_one_at_the_mothership_is() -> None:
    secrets = [
        secret("ghcr-pull", "flux-system", {"ghcr.io": SHIP}),
        secret("mine", "shop", {"ghcr.io": OWN, "docker.io": OWN, "harbor.openova.io": OWN}),
    ]
    assert left(strips(secrets, sovereign(), (), {}))["shop/mine"] == ["ghcr.io", "docker.io"]


def test_what_is_clean_is_not_written() -> None:
    secrets = [secret("ghcr-pull", "flux-system", {HOST: OWN}), {"metadata": {"name": "x"}, "data": {"a": "b"}}]
    assert strips(secrets, sovereign(), (), {}) == []


def test_a_private_harbor_gets_its_entry_and_the_rest_of_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("pw")
    local = entry(HOST, Login(username="robot", password_file=tmp_path / "p"))
    mixed = secret("ghcr-pull", "flux-system", {"ghcr.io": SHIP})
    whole = {"auths": {"ghcr.io": SHIP}, "credHelpers": {"x": "y"}}
    mixed["data"][".dockerconfigjson"] = base64.b64encode(json.dumps(whole).encode()).decode()
    ((_, data),) = strips([mixed], sovereign(), (), local)
    written = json.loads(base64.b64decode(data))
    assert list(written["auths"]) == [HOST]
    assert base64.b64decode(written["auths"][HOST]["auth"]) == b"robot:pw"
    assert written["credHelpers"] == {"x": "y"}


def test_a_pull_secret_that_cannot_be_read_stops_the_step() -> None:
    broken = secret("any", "n", {})
    broken["data"][".dockerconfigjson"] = "!!!"
    with pytest.raises(Stuck, match=r"PullSecretUnreadable.*n/any"):
        strips([broken], sovereign(), (), {})


def test_a_source_of_the_mothership_without_a_local_place_is_no_third_party() -> None:
    found = plan([helm("https://charts.openova.io"), helm("https://quay.io/x")], sovereign(), public=(), releases={})
    assert found.foreign == ()
    assert [each.partition("(")[2] for each in found.unmapped] == ["charts.openova.io)", "quay.io)"]


def test_where_a_project_asks_for_a_login_every_source_names_one() -> None:
    assert planned(helm(), public=()).fields["spec", "secretRef", "name"] == "cutover-harbor-pull"
    assert planned(helm()).absent == ()
    cloud = planned(helm(provider="aws", proxySecretRef={"name": "p"}, secretRef={"name": "s"}))
    assert cloud.absent == (("spec", "secretRef"), ("spec", "provider"), ("spec", "proxySecretRef"))


def package(said: str, resolved: str = "", kind: str = "Provider") -> dict[str, Any]:
    return {**source(kind, "p", package=said), "status": {"resolvedPackage": resolved} if resolved else {}}


def test_one_image_config_sends_all_packages_of_a_host_to_its_project() -> None:
    packages = [
        package("xpkg.upbound.io/crossplane-contrib/a:v1"),
        package("xpkg.upbound.io/upbound/b@sha256:" + "0" * 64, kind="Function"),
        package("ghcr.io/openova-io/configuration-x:v1", kind="Configuration"),
        package("harbor.openova.io/proxy-xpkg/c/d:v1"),
        package("bare/p:v1"),
        package(f"{HOST}/proxy-xpkg/local:v1"),
    ]
    found = {c["spec"]["matchImages"][0]["prefix"]: c for c in image_configs(packages, sovereign(), ["proxy-xpkg"])}
    assert {prefix: c["spec"].get("rewriteImage") for prefix, c in found.items()} == {
        "xpkg.upbound.io/": {"prefix": f"{HOST}/proxy-xpkg/"},
        "harbor.openova.io/proxy-xpkg/": {"prefix": f"{HOST}/proxy-xpkg/"},
        "ghcr.io/": {"prefix": f"{HOST}/proxy-ghcr/"},
        # Signing in goes by what was rewritten; this project is not for everybody.
        f"{HOST}/proxy-ghcr/": None,
    }
    login = found[f"{HOST}/proxy-ghcr/"]["spec"]["registry"]["authentication"]["pullSecretRef"]
    assert login == {"name": "cutover-harbor-pull"}
    assert len({c["metadata"]["name"] for c in found.values()}) == 4
    assert rewritable(packages[0], sovereign())
    assert not rewritable(packages[4], sovereign()), "defaults are not looked at by ImageConfigs"


def test_a_package_came_from_here_only_when_crossplane_says_exactly_that() -> None:
    said = "xpkg.upbound.io/crossplane-contrib/a:v1"
    assert resolved_locally(package(said, f"{HOST}/proxy-xpkg/crossplane-contrib/a:v1"), sovereign())
    assert not resolved_locally(package(said), sovereign())
    assert not resolved_locally(package(said, f"{HOST}/proxy-xpkg/crossplane-contrib/a:v0"), sovereign()), "of before"
    assert not resolved_locally(helm(), sovereign())


def test_every_version_that_is_pinned_is_to_be_had_with_local_credentials() -> None:
    local = helm(f"oci://{HOST}/openova-io")
    ref = {"sourceRef": {"kind": "HelmRepository", "name": "bp-x", "namespace": "flux-system"}}
    made = {"metadata": {"namespace": "flux-system"}, "spec": {**ref, "chart": "bp-x", "version": "1.0.0"}}
    moving = {**made, "spec": {**ref, "chart": "bp-y", "version": ">=1"}}
    fetched = {**moving, "status": {"artifact": {"revision": "1.2.3+b"}}}
    release = {**made, "spec": {"chart": {"spec": {**ref, "chart": "bp-z", "version": "v2.0.0-rc.1"}}}}
    oci = source("OCIRepository", url=f"oci://{HOST}/openova-io/m", ref={"tag": "t"})
    upstream = helm("oci://ghcr.io/openova-io")
    upstream["metadata"]["name"] = "bp-up"
    provider = package("xpkg.upbound.io/c/a:v1", f"{HOST}/proxy-xpkg/c/a:v1")
    found = pinned([local, oci, upstream, provider], [made, moving, fetched], [release], sovereign())
    assert [(a.repository, a.reference) for a in found] == [
        ("openova-io/m", "t"),
        ("proxy-xpkg/c/a", "v1"),
        ("openova-io/bp-x", "1.0.0"),
        ("openova-io/bp-y", "1.2.3_b"),
        ("openova-io/bp-z", "v2.0.0-rc.1"),
    ]


def test_a_login_that_was_read_from_a_secret_is_never_printed() -> None:
    login = Lent(username="robot$cutover-pull", secret=SecretStr("hunter2"))
    assert login.password().get_secret_value() == "hunter2"
    assert "hunter2" not in repr(login) + login.model_dump_json()


def test_a_secret_that_stays_in_use_gets_the_robot_s_newest_login_beside_what_it_had() -> None:
    old = entry(HOST, Lent(username="r", secret=SecretStr("old")))
    new = entry(HOST, Lent(username="r", secret=SecretStr("new")))
    kept = pull_secret("ghcr-pull", "flux-system", {"ghcr.io": {"auth": "eA=="}, **old})
    ((_, data),) = lent([kept, pull_secret("other", "flux-system", old)], {("flux-system", "ghcr-pull")}, new)
    assert auths_of({"data": {".dockerconfigjson": data}}) == {"ghcr.io": {"auth": "eA=="}, **new}
    kept["data"][".dockerconfigjson"] = data
    assert lent([kept], {("flux-system", "ghcr-pull")}, new) == []
