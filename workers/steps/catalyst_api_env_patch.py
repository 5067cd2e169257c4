"""Step 7: catalyst-api reads the local repository, and the Pod that runs says so itself.

An env patch on a Deployment that Helm made is drift and goes at the next upgrade; so the value changes where it is
declared: in the HelmRelease's values, in Git. Only where nobody declares the Deployment is it patched live.
Safe to repeat: what says the local URL already is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from schemas.progress import Progress
from schemas.results import CatalystApiPivoted
from workers import flux
from workers.adapters.cluster import (
    CONFIG_MAP,
    DEPLOYMENT,
    GIT_REPOSITORY,
    HELM_RELEASE,
    POD,
    Object,
    Seen,
    WaitedInVain,
    conditions,
    name_of,
)
from workers.declared.changes import Change, at, holds, merge_patch
from workers.declared.reconcile import request, settled
from workers.declared.repository import cluster_url, owners, push, reconcile
from workers.errors import Stuck, Wait
from workers.sovereign import CatalystApi, Sovereign
from workers.tethers import Names, in_object
from workers.world import Order, Report, World


def plan(sovereign: Sovereign, deployment: Object, release: Object | None) -> Change:
    """Where the URL is to be said: in the release's values, or in the Deployment when no release makes it."""
    api, url = sovereign.catalyst_api, cluster_url(sovereign)
    if release is not None:
        return Change(HELM_RELEASE, api.release_namespace, api.release, {("spec", "values", *api.value_path): url})
    containers = deployment["spec"]["template"]["spec"]["containers"]
    number = next((n for n, c in enumerate(containers) if c["name"] == api.container), None)
    if number is None:
        raise Stuck("ContainerAbsent", f"Deployment {api.namespace}/{api.deployment} has no container {api.container}")
    variables = containers[number].get("env") or []
    place = next((n for n, v in enumerate(variables) if v["name"] == api.variable), None)
    if place is None:
        message = f"Deployment {api.namespace}/{api.deployment} does not set {api.variable}; add it where it is made"
        raise Stuck("VariableAbsent", message)
    path = ("spec", "template", "spec", "containers", number, "env", place, "value")
    return Change(DEPLOYMENT, api.namespace, api.deployment, {path: url})


def rolled_out(deployment: Object | None) -> bool:
    """True when only Pods of the newest template run, all of them available (kubectl rollout status)."""
    if deployment is None:
        return False
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return False
    counts = (status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas"))
    return wanted > 0 and all(count == wanted for count in counts)


def variable(pod: Object, api: CatalystApi) -> Mapping[str, Any] | None:
    """The env entry in a Pod's own spec; None when the container or the variable is not there."""
    container: Object = next((c for c in pod["spec"]["containers"] if c["name"] == api.container), {})
    # The last of two entries of one name is what the process gets.
    found = [entry for entry in container.get("env") or [] if entry["name"] == api.variable]
    return found[-1] if found else None


def living(pods: Iterable[Object]) -> list[Object]:
    """Pods that serve or will: neither finished nor on their way out."""
    return [
        pod
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp")
        and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]


def ready(pod: Object) -> bool:
    """True when the kubelet says so."""
    return (flux.condition(pod, "Ready") or {}).get("status") == "True"


async def run(order: Order, world: World, report: Report) -> CatalystApiPivoted:
    """Declare the local URL, let it roll out, and read it from the running Pod."""
    sovereign = world.sovereign
    api, timeout = sovereign.catalyst_api, sovereign.flux.timeout
    deployment = await _deployment(world)
    release = await _release(world)
    change = plan(sovereign, deployment, release)
    target = release if release is not None else deployment

    await report(Progress(message="the value is declared", percent=10))
    commit, changes = await _declare(order, world, change, target)
    if release is not None:
        key = (api.release_namespace, api.release)
        token = await request(world.cluster, HELM_RELEASE, [key])
        await report(Progress(message=f"Helm rolls out {api.release}", percent=40))
        await settled(world.cluster, HELM_RELEASE, {key: None}, timeout, token=token)
    await report(Progress(message=f"{api.deployment} rolls out", percent=60))
    deployment = await _rollout(world, change)
    pods = await _pods(world, deployment)
    value = await _said(world, pods)
    return CatalystApiPivoted(
        changes=changes,
        summary=_summary(changes, sovereign, pods),
        values={api.variable: value},
        pod=name_of(pods[0]),
        commit=commit,
    )


def _summary(changes: int, sovereign: Sovereign, pods: Iterable[Object]) -> str:
    api = sovereign.catalyst_api
    done = f"the running Pod of {api.deployment} says {api.variable}={cluster_url(sovereign)}"
    said = done if changes else f"nothing to do: {done}"
    names = Names.of(sovereign)
    left = sorted({f"{t.path} ({t.names})" for pod in pods for t in in_object({**pod, "kind": "Pod"}, names)})
    return f"{said}; still names the mothership: {', '.join(left)}" if left else said


# --- declared and live ----------------------------------------------------------------------------------


async def _deployment(world: World) -> Object:
    api = world.sovereign.catalyst_api
    found = await world.cluster.get(DEPLOYMENT, api.deployment, api.namespace)
    if found is None:
        message = f"there is no Deployment {api.namespace}/{api.deployment}; check catalyst_api in the settings"
        raise Stuck("CatalystApiAbsent", message)
    return found


async def _release(world: World) -> Object | None:
    """The HelmRelease that makes catalyst-api, or None. A suspended one would not roll anything out."""
    api = world.sovereign.catalyst_api
    if not await world.cluster.served(HELM_RELEASE):
        return None
    found = await world.cluster.get(HELM_RELEASE, api.release, api.release_namespace)
    if found is not None and found["spec"].get("suspend"):
        message = f"HelmRelease {api.release_namespace}/{api.release} is suspended, so no value reaches the Pod"
        raise Stuck("ReleaseSuspended", f"{message}; resume it")
    return found


async def _declare(order: Order, world: World, change: Change, target: Object) -> tuple[str, int]:
    """Git says it and Flux applied it; or, where Git has no part in it, the object itself says it."""
    main = (world.sovereign.flux.namespace, world.sovereign.flux.git_repository)
    grouped = await owners(world.cluster, [target], main)
    repo = next((repo for repo, objects in grouped.values() if objects), None)
    if repo is None:
        return await _patch(world, change, target), int(not holds(change, target))
    subject = f"catalyst-api reads {cluster_url(world.sovereign)}"
    pushed = await push(world, order, repo, [change], subject)
    owner = flux.owner(target, flux.OWNED_BY_KUSTOMIZATION)
    await reconcile(world, repo, pushed.commit, must=frozenset([owner] if owner else []))
    now = await world.cluster.get(change.kind, change.name, change.namespace)
    if not holds(change, now):
        raise Stuck("DeclaredElsewhere", f"{change} is not as Git declares it, though Flux has applied that")
    return pushed.commit, int(pushed.new)


async def _patch(world: World, change: Change, target: Object) -> str:
    """A live patch; the commit is then the one that Flux serves, which says nothing of this object."""
    if not holds(change, target):
        await world.cluster.patch(change.kind, change.name, change.namespace, merge_patch(change, target))
    flux_ = world.sovereign.flux
    source = await world.cluster.get(GIT_REPOSITORY, flux_.git_repository, flux_.namespace)
    return flux.commit_of(flux.revision_of(source)) if source else ""


# --- what runs ------------------------------------------------------------------------------------------


async def _rollout(world: World, change: Change) -> Object:
    """The Deployment, rolled out with the local URL in its template. A chart that ignores the value is Stuck."""
    api, timeout = world.sovereign.catalyst_api, world.sovereign.flux.timeout
    found = await _deployment(world)
    entry = variable(found["spec"]["template"], api)
    if entry is None or await _value(world, entry) != cluster_url(world.sovereign):
        said = "does not set" if entry is None else "still sets another value for"
        where = ".".join(str(part) for path in change.fields for part in path)
        message = (
            f"{change} has {where}, but Deployment {api.namespace}/{api.deployment} {said} {api.variable}: "
            "its chart does not render that value; set catalyst_api.value_path to the path that it does render"
        )
        raise Stuck("ValueNotRendered", message)
    done = await world.cluster.wait(DEPLOYMENT, api.deployment, api.namespace, rolled_out, timeout)
    return done or found


async def _pods(world: World, deployment: Object) -> list[Object]:
    """Every living Pod of the Deployment, all Ready. After a rollout these are the new ones only."""
    api, timeout = world.sovereign.catalyst_api, world.sovereign.flux.timeout
    labels = ",".join(f"{k}={v}" for k, v in deployment["spec"]["selector"].get("matchLabels", {}).items())

    def settled_(seen: Seen) -> bool:
        pods = living(seen.values())
        return bool(pods) and all(ready(pod) for pod in pods)

    try:
        seen = await world.cluster.wait_all(POD, api.namespace, settled_, timeout, labels=labels)
    except WaitedInVain as vain:
        pods = [f"{name_of(pod)}: {conditions(pod)}" for pod in living(vain.seen.values())]
        raise Wait("PodsNotReady", "; ".join(pods) or f"{api.deployment} has no Pod") from None
    return living(seen.values())


async def _said(world: World, pods: list[Object]) -> str:
    """The value in the spec of every running Pod; raises Wait when one of them still says another."""
    api, url = world.sovereign.catalyst_api, cluster_url(world.sovereign)
    for pod in pods:
        entry = variable(pod, api)
        value = await _value(world, entry) if entry is not None else None
        if value != url:
            raise Wait("OldPodRuns", f"Pod {api.namespace}/{name_of(pod)} does not say {api.variable}={url} yet")
    return url


async def _value(world: World, entry: Mapping[str, Any]) -> str | None:
    """The value of an env entry, followed into the ConfigMap it comes from."""
    if "valueFrom" not in entry:
        return entry.get("value")
    ref = (entry["valueFrom"] or {}).get("configMapKeyRef")
    if not ref:
        message = f"{entry['name']} comes from {'/'.join(entry['valueFrom'] or {})}, which is not read here"
        raise Stuck("ValueNotReadable", f"{message}; set it as a plain value")
    found = await world.cluster.get(CONFIG_MAP, str(ref["name"]), world.sovereign.catalyst_api.namespace)
    value = at(found, ("data", str(ref["key"])))
    return None if value is None else str(value)
