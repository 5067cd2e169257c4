"""Who else than Git makes an object: no live patch of theirs is called done; and whose mark means nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.results import GitMirrored
from workers.declared.elsewhere import maker
from workers.errors import Stuck
from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.steps.flux_gitrepository_patch import followed
from workers.steps.helmrepo_patches import plan

LOGIN = Login(username="u", password_file=Path("/absent"))
SOVEREIGN = Sovereign(
    fqdn="sov.test",
    gitea=Gitea(url="http://127.0.0.1:1", login=LOGIN),
    harbor=Harbor(url="http://127.0.0.1:2", host="harbor.sov.test", login=LOGIN),
)
MIRRORED = GitMirrored.model_construct(branch="main", upstream_sha="a" * 40)
MANAGED_BY = "app.kubernetes.io/managed-by"
KUSTOMIZE = {"kustomize.toolkit.fluxcd.io/name": "kit", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
RELEASE = {"helm.toolkit.fluxcd.io/name": "child", "helm.toolkit.fluxcd.io/namespace": "flux-system"}
UMBRELLA = {"helm.toolkit.fluxcd.io/name": "umbrella", "helm.toolkit.fluxcd.io/namespace": "flux-system"}
RESOURCE_SET = {
    "resourceset.fluxcd.controlplane.io/name": "tenants",
    "resourceset.fluxcd.controlplane.io/namespace": "flux-system",
}
INSTANCE = {"fluxcd.controlplane.io/name": "flux", MANAGED_BY: "flux-operator"}
OWNERS = [{"apiVersion": "v1", "kind": "Tenant", "name": "acme", "uid": "1", "controller": True}]
OF_OTHERS = [
    ({"labels": RESOURCE_SET}, "ResourceSet flux-system/tenants"),
    ({"labels": INSTANCE}, "FluxInstance flux"),
    ({"ownerReferences": OWNERS}, "Tenant acme"),
    ({"labels": {MANAGED_BY: "fleet-controller"}}, "fleet-controller"),
]
OF_NOBODY: list[dict[str, Any]] = [
    {},
    {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
    {
        "labels": {"objectset.rio.cattle.io/hash": "0a"},
        "annotations": {
            "objectset.rio.cattle.io/owner-gvk": "k3s.cattle.io/v1, Kind=Addon",
            "objectset.rio.cattle.io/owner-name": "flux-bootstrap",
        },
    },
    {"labels": {"app.kubernetes.io/part-of": "flux", "app.kubernetes.io/instance": "flux-system"}},
    {"labels": {MANAGED_BY: "kustomize-v5.4.3"}},
    {"labels": {MANAGED_BY: "flux"}},
    {"labels": {MANAGED_BY: "catalyst-cutover"}},
    {"ownerReferences": [{**OWNERS[0], "controller": False}]},
]


def source(kind: str, meta: dict[str, Any], **spec: Any) -> dict[str, Any]:
    api = "source.toolkit.fluxcd.io/v1"
    return {
        "kind": kind,
        "apiVersion": api,
        "metadata": {"name": "x", "namespace": "flux-system", **meta},
        "spec": spec,
    }


def chart_source(meta: dict[str, Any], url: str = "oci://ghcr.io/openova-io") -> dict[str, Any]:
    return source("HelmRepository", meta, url=url, type="oci")


def release(meta: dict[str, Any]) -> dict[str, Any]:
    meta = {"name": "child", "namespace": "flux-system", **meta}
    return {"kind": "HelmRelease", "metadata": meta, "spec": {"values": {"repo": "oci://ghcr.io/openova-io"}}}


def charts(obj: dict[str, Any], releases: Any = ()) -> Any:
    known = {(r["metadata"]["namespace"], r["metadata"]["name"]): r for r in releases}
    return plan([obj], SOVEREIGN, public=("openova-io",), releases=known).changes


@pytest.mark.parametrize(("meta", "who"), OF_OTHERS)
def test_what_another_makes_is_not_patched_live(meta: dict[str, Any], who: str) -> None:
    with pytest.raises(Stuck, match=f"DeclaredElsewhere.*is made by {who}.*change "):
        charts(chart_source(meta))
    main = source("GitRepository", {**meta, "name": "openova"}, url="https://github.com/openova-io/openova")
    with pytest.raises(Stuck, match=f"DeclaredElsewhere.*is made by {who}.*change "):
        followed([main], [], SOVEREIGN, MIRRORED)


@pytest.mark.parametrize(("meta", "who"), OF_OTHERS)
def test_what_another_makes_as_it_shall_be_is_left_alone_as_is_what_git_declares(
    meta: dict[str, Any], who: str
) -> None:
    assert charts(chart_source(meta, "oci://harbor.sov.test/openova-io")) == ()
    in_git = {**meta, "labels": {**meta.get("labels", {}), **KUSTOMIZE}}
    assert len(charts(chart_source(in_git))) == 1
    assert maker({"kind": "Deployment", "metadata": meta}) is not None


@pytest.mark.parametrize("meta", OF_NOBODY)
def test_what_was_applied_once_is_nobody_s(meta: dict[str, Any]) -> None:
    assert len(charts(chart_source(meta))) == 1
    main = source("GitRepository", {**meta, "name": "openova"}, url="https://github.com/openova-io/openova")
    assert len(followed([main], [], SOVEREIGN, MIRRORED)[0]) == 1
    assert maker({"kind": "Deployment", "metadata": {"name": "d", **meta}}) is None


def test_the_values_of_a_release_are_changed_unless_an_umbrella_renders_it() -> None:
    rendered = chart_source({"labels": RELEASE})
    ((change, _),) = charts(rendered, [release({})])
    assert str(change) == "HelmRelease flux-system/child"
    for labels, who in ((UMBRELLA, "HelmRelease flux-system/umbrella"), ({MANAGED_BY: "Helm"}, "Helm release unknown")):
        with pytest.raises(Stuck, match=f"DeclaredElsewhere.*HelmRelease flux-system/child is made by {who}"):
            charts(rendered, [release({"labels": labels})])
    assert len(charts(rendered, [release({"labels": {**UMBRELLA, **KUSTOMIZE}})])) == 1
