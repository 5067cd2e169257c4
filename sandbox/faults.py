"""One real failure for each step: staged in the Sovereign itself, undone by `heal`, known to no worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from sandbox import charts
from sandbox.catalogue import CHARTS, GITOPS_UPSTREAM
from sandbox.controllers.api import (
    GIT_REPOSITORIES,
    HELM_CHARTS,
    HELM_RELEASES,
    HELM_REPOSITORIES,
    Object,
    Resource,
)
from sandbox.controllers.conditions import REQUESTED_AT
from sandbox.controllers.helm import FORCE_AT
from sandbox.controllers.oci import Credentials
from sandbox.description import HARBOR_PASSWORD, HARBOR_USER
from sandbox.registry import Fault, Wrong

if TYPE_CHECKING:
    from sandbox.box import Box

DISABLED = "kustomize.toolkit.fluxcd.io/reconcile"
PINNED = "bp-velero"
PROXY_PROJECT = "proxy-quay"
DENIED_IMAGE = "library/postgres"
CATALYST = next(c for c in CHARTS if c.name == charts.CATALYST_API)
BROKEN_NODE = "worker-2"


@dataclass(frozen=True)
class Staged:
    """A failure: what it looks like to a person, how it comes about and how it goes away."""

    tells: str
    stage: Callable[[Box], Awaitable[None]]
    heal: Callable[[Box], Awaitable[None]]


async def _git_denies(box: Box) -> None:
    box.sources.refuse(True)


async def _git_allows(box: Box) -> None:
    box.sources.refuse(False)


async def _wrong_project(box: Box) -> None:
    """Someone made a proxy project by hand where a hosted one is wanted."""
    async with _harbor(box) as http:
        endpoint = {"name": "by-hand", "type": "docker-registry", "url": "https://quay.io"}
        async with http.post("registries", json=endpoint):
            pass
        async with http.get("registries", params={"q": "name=by-hand"}) as answer:
            known = await answer.json()
        project = {
            "project_name": PROXY_PROJECT,
            "registry_id": known[0]["id"],
            "metadata": {"public": "true"},
        }
        async with http.post("projects", json=project) as answer:
            answer.raise_for_status()


async def _no_project(box: Box) -> None:
    async with _harbor(box) as http:
        async with http.delete(f"projects/{PROXY_PROJECT}", headers={"X-Is-Resource-Name": "true"}):
            pass
        async with http.get("registries", params={"q": "name=by-hand"}) as answer:
            known = await answer.json()
        for each in known:
            async with http.delete(f"registries/{each['id']}"):
                pass


def _harbor(box: Box) -> aiohttp.ClientSession:
    login = Credentials(HARBOR_USER, box.keyring.get(HARBOR_PASSWORD))
    return aiohttp.ClientSession(f"{box.harbor_url}/api/v2.0/", headers={"Authorization": login.header()})


async def _image_denied(box: Box) -> None:
    """The image's owner made it private."""
    fault = Fault(Wrong.STATUS, path=rf"/v2/(proxy-dockerhub/)?{DENIED_IMAGE}/", times=None, status=403)
    for host in ("docker.io", "harbor.openova.io"):
        box.registries[host].faults.add(fault)


async def _image_allowed(box: Box) -> None:
    for registry in box.registries.values():
        registry.faults.staged[:] = [f for f in registry.faults.staged if DENIED_IMAGE not in f.path]


async def _node_broken(box: Box) -> None:
    """A directory stands where k3s's file should be: nothing can be written there."""
    files = box.node(BROKEN_NODE).containerd
    path = files.k3s / "registries.yaml"
    if path.is_file():
        path.rename(path.with_suffix(".aside"))
        path.mkdir()


async def _node_mended(box: Box) -> None:
    path = box.node(BROKEN_NODE).containerd.k3s / "registries.yaml"
    aside = path.with_suffix(".aside")
    if aside.exists() and path.is_dir():
        path.rmdir()
        aside.rename(path)


def _marked(resource: Resource, name: str, body: Object) -> Callable[[Box], Awaitable[None]]:
    """Someone changed a live object in a field that Git does not hold, so Git does not undo it."""

    async def change(box: Box) -> None:
        found = await box.api.get(resource, name, "flux-system")
        if found is not None:
            await box.api.merge(resource, found, body, "someone")

    return change


async def _deaf_chart(box: Box) -> None:
    """The chart was published again under the same version, with the URL in its template."""
    text = charts.templates(CATALYST)["api-deployment.yaml"]
    deaf = text.replace("{{ .Values.catalystApi.gitopsRepoUrl }}", GITOPS_UPSTREAM)
    box.publish_chart(CATALYST, charts.archive(CATALYST, {"api-deployment.yaml": deaf}))


async def _hearing_chart(box: Box) -> None:
    """Publish the right chart, here too when it was copied, and upgrade the release once with it."""
    box.publish_chart(CATALYST, charts.archive(CATALYST))
    place = ("flux-system", CATALYST.name)
    await box.api.delete(HELM_CHARTS, "-".join(place), place[0])
    release = await box.api.get(HELM_RELEASES, place[1], place[0])
    if release is not None:
        token = box.clock.now().isoformat()
        marks = {REQUESTED_AT: token, FORCE_AT: token}
        await box.api.merge(HELM_RELEASES, release, {"metadata": {"annotations": marks}}, "operator")


async def _policies_ignored(box: Box) -> None:
    box.enforcer.audit = True
    box.enforcer.judge()


async def _policies_enforced(box: Box) -> None:
    box.enforcer.audit = False
    box.enforcer.judge()


FAULTS: dict[str, Staged] = {
    "gitea-mirror": Staged("upstream Git refuses to be read", _git_denies, _git_allows),
    "harbor-projects": Staged(f"{PROXY_PROJECT} exists and is a proxy cache", _wrong_project, _no_project),
    "harbor-prewarm": Staged(f"docker.io denies {DENIED_IMAGE}", _image_denied, _image_allowed),
    "registry-pivot": Staged(f"registries.yaml of {BROKEN_NODE} cannot be written", _node_broken, _node_mended),
    # A policy that keeps Flux from Gitea or Harbor looks like an outage: the steps would wait, as they should.
    "flux-gitrepository-patch": Staged(
        "someone suspended the GitRepository: Flux acknowledges requests and fetches nothing",
        _marked(GIT_REPOSITORIES, "openova", {"spec": {"suspend": True}}),
        _marked(GIT_REPOSITORIES, "openova", {"spec": {"suspend": None}}),
    ),
    "helmrepo-patches": Staged(
        f"someone keeps Flux from reconciling HelmRepository {PINNED}",
        _marked(HELM_REPOSITORIES, PINNED, {"metadata": {"annotations": {DISABLED: "disabled"}}}),
        _marked(HELM_REPOSITORIES, PINNED, {"metadata": {"annotations": {DISABLED: None}}}),
    ),
    "catalyst-api-env-patch": Staged("the chart does not listen to the value", _deaf_chart, _hearing_chart),
    "egress-block-test": Staged("Cilium runs in policy-audit-mode", _policies_ignored, _policies_enforced),
}
"""Step slug -> the failure that stops it."""
