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
    KUSTOMIZATION,
    POD,
    Object,
    Seen,
    WaitedInVain,
    conditions,
    key_of,
    name_of,
)
from workers.declared.changes import Change, Named, Path, Value, at, holds, merge_patch
from workers.declared.elsewhere import to_be_patched
from workers.declared.reconcile import Key, brought
from workers.declared.repository import cluster_url, owners, push, reconcile
from workers.errors import Stuck, Wait
from workers.sovereign import CatalystApi, Sovereign
from workers.tethers import Names, in_object
from workers.world import Order, Report, World

MOST = 20
"""So many findings stand in the summary."""


def values(sovereign: Sovereign) -> dict[str, str]:
    """What each configured variable shall say in the running Pod."""
    api = sovereign.catalyst_api
    more = {one.variable: one.value.format(fqdn=sovereign.fqdn) for one in api.further}
    return {api.variable: cluster_url(sovereign), **more}


def plan(sovereign: Sovereign, deployment: Object, release: Object | None) -> Change:
    """Where the values are to be said: in the release's values, or in the Deployment when no release makes it."""
    api = sovereign.catalyst_api
    if release is not None:
        namespace, name = maker(deployment, api)
        said: dict[Path, Value] = {("spec", "values", *api.value_path): cluster_url(sovereign)}
        for one in api.further:
            text = one.value if one.release_value is None else one.release_value
            said["spec", "values", *one.value_path] = text.format(fqdn=sovereign.fqdn)
        return Change(HELM_RELEASE, namespace, name, said)
    container: Path = ("spec", "template", "spec", "containers", Named(api.container))
    if at(deployment, container) is None:
        raise Stuck("ContainerAbsent", f"Deployment {api.namespace}/{api.deployment} has no container {api.container}")
    # By name: where an entry stands in the manifest is not where it stands live, with what others put in.
    entries: dict[str, Path] = {name: (*container, "env", Named(name)) for name in values(sovereign)}
    owner = flux.owner(deployment, flux.OWNED_BY_KUSTOMIZATION)
    if owner is not None and (absent := [name for name, path in entries.items() if at(deployment, path) is None]):
        message = f"Deployment {api.namespace}/{api.deployment} does not set {', '.join(absent)}"
        raise Stuck("VariableAbsent", f"{message}; add it to its manifest, which {'/'.join(owner)} applies")
    fields: dict[Path, Value] = {(*entries[name], "value"): value for name, value in values(sovereign).items()}
    sources = tuple((*path, "valueFrom") for path in entries.values())
    return Change(DEPLOYMENT, api.namespace, api.deployment, fields, sources)


def _configured(api: CatalystApi) -> Key:
    return api.release_namespace, api.release


def maker(deployment: Object, api: CatalystApi) -> Key:
    """(namespace, name) of the HelmRelease that makes catalyst-api: by Flux's labels, else as configured."""
    return flux.owner(deployment, flux.OWNED_BY_RELEASE) or _configured(api)


def rolled_out(deployment: Object | None) -> bool:
    """True when only Pods of the newest template run, all of them available (kubectl rollout status)."""
    if deployment is None:
        return False
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return False
    counts = (status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas"))
    return wanted > 0 and all(count == wanted for count in counts)


def variable(pod: Object, api: CatalystApi, name: str | None = None) -> Mapping[str, Any] | None:
    """The env entry in a Pod's own spec; None when the container or the variable is not there."""
    container: Object = next((c for c in pod["spec"]["containers"] if c["name"] == api.container), {})
    # The last of two entries of one name is what the process gets.
    found = [entry for entry in container.get("env") or [] if entry["name"] == (name or api.variable)]
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
    """Declare the local values, let them roll out, and read them from the running Pod."""
    sovereign = world.sovereign
    timeout = sovereign.flux.timeout
    deployment = await _owned(world, await _deployment(world))
    release = await _release(world, deployment)
    change = plan(sovereign, deployment, release)
    target = release if release is not None else deployment
    to_be_patched(change, target, sovereign.field_manager)

    await report(Progress(message="the value is declared", percent=10))
    commit, changes = await _declare(order, world, change, target)
    if release is not None:
        await report(Progress(message=f"Helm rolls out {name_of(release)}", percent=40))
        wanted: dict[Key, str | None] = {key_of(release): None}
        # An upgrade that is due, or drift: Helm has its say before anybody looks.
        await brought(world.cluster, HELM_RELEASE, wanted, timeout, again=changes > 0 or not await _says(world))
    await report(Progress(message=f"{sovereign.catalyst_api.deployment} rolls out", percent=60))
    deployment = await _rollout(world, change)
    pods = await _pods(world, deployment)
    said = await _said(world, pods)
    return CatalystApiPivoted(
        changes=changes,
        summary=_summary(changes, sovereign, said, await left(world, pods)),
        values=said,
        pod=name_of(pods[0]),
        commit=commit,
    )


def _summary(changes: int, sovereign: Sovereign, said: Mapping[str, str], still: Iterable[str]) -> str:
    told = ", ".join(f"{name}={value}" for name, value in said.items())
    done = f"the running Pod of {sovereign.catalyst_api.deployment} says {told}"
    words = [done if changes else f"nothing to do: {done}"]
    if found := list(still):
        words.append(f"still names the mothership: {', '.join(found[:MOST])}")
    return "; ".join(words)


async def left(world: World, pods: Iterable[Object]) -> list[str]:
    """Every variable, argument and image of the running Pods that names the mothership, and what ConfigMaps say.

    Images are pulled from local Harbor whatever their name, since the nodes' pivot: they are told as such.
    """
    names = Names.of(world.sovereign)
    found: dict[str, None] = {}
    for pod in pods:
        for tether in in_object({**pod, "kind": "Pod"}, names):
            image = tether.path.rpartition(".")[2] == "image"
            how = ", which nodes pull from local Harbor" if image else ""
            found[f"{tether.path} ({tether.names}{how})"] = None
        for name, text in (await _from_config_maps(world, pod)).items():
            if which := names.in_text(text):
                found[f"{name} ({which})"] = None
    return sorted(found)


async def _from_config_maps(world: World, pod: Object) -> dict[str, str]:
    """What the containers get out of ConfigMaps: variable, and where it comes from -> value."""
    found: dict[str, str] = {}
    for container in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]):
        for entry in container.get("env") or ():
            if ((entry.get("valueFrom") or {}).get("configMapKeyRef")) and (value := await _value(world, entry)):
                found[f"env[{entry['name']}] of {container['name']}, from a ConfigMap"] = value
        for source in container.get("envFrom") or ():
            if ref := source.get("configMapRef"):
                config = await _config_map(world, str(ref["name"]))
                for key, value in ((config or {}).get("data") or {}).items():
                    found[f"env[{source.get('prefix', '')}{key}] of {container['name']}, from a ConfigMap"] = value
    return found


# --- declared and live ----------------------------------------------------------------------------------


async def _deployment(world: World) -> Object:
    api = world.sovereign.catalyst_api
    found = await world.cluster.get(DEPLOYMENT, api.deployment, api.namespace)
    if found is None:
        message = f"there is no Deployment {api.namespace}/{api.deployment}; check catalyst_api in the settings"
        raise Stuck("CatalystApiAbsent", message)
    return found


async def _release(world: World, deployment: Object) -> Object | None:
    """The HelmRelease that makes catalyst-api, or None. A suspended one would not roll anything out."""
    key = maker(deployment, world.sovereign.catalyst_api)
    found = await world.cluster.get(HELM_RELEASE, key[1], key[0]) if await world.cluster.served(HELM_RELEASE) else None
    if found is None:
        notes = deployment["metadata"].get("annotations") or {}
        if helm := notes.get("meta.helm.sh/release-name"):
            message = f"Deployment {'/'.join(key_of(deployment))} is rendered by Helm release {helm}"
            advice = f"there is no HelmRelease {'/'.join(key)}: a live patch would go at the next upgrade"
            raise Stuck("RenderedByHelm", f"{message}, and {advice}; set its values, or name its HelmRelease")
        return None
    if found["spec"].get("suspend"):
        message = f"HelmRelease {'/'.join(key)} is suspended, so no value reaches the Pod"
        raise Stuck("ReleaseSuspended", f"{message}; resume it")
    return await _owned(world, found)


async def _owned(world: World, obj: Object) -> Object:
    """The object, labelled with the Kustomization that really applies it."""
    cluster = world.cluster
    kustomizations = await cluster.list(KUSTOMIZATION) if await cluster.served(KUSTOMIZATION) else []
    return flux.by_inventory([obj], kustomizations)[0]


async def _says(world: World) -> bool:
    """True when the Deployment's template says all values already."""
    try:
        found = await _deployment(world)
        return not [
            n for n, v in values(world.sovereign).items() if await _in(world, found["spec"]["template"], n) != v
        ]
    except Stuck:
        return False


async def _in(world: World, template: Object, name: str) -> str | None:
    """What the container gets for a variable: from its own entry, else from the last ConfigMap that has it."""
    api = world.sovereign.catalyst_api
    if (entry := variable(template, api, name)) is not None:
        return await _value(world, entry)
    for source, prefix in reversed(_taken_whole(template, api)):
        if name.startswith(prefix):
            value = at(await _config_map(world, source), ("data", name.removeprefix(prefix)))
            if value is not None:
                return str(value)
    return None


def _taken_whole(pod: Object, api: CatalystApi) -> list[tuple[str, str]]:
    """(ConfigMap, prefix) of `envFrom`, in order: the last one that has a key wins."""
    container: Object = next((c for c in pod["spec"]["containers"] if c["name"] == api.container), {})
    found = [(source.get("configMapRef"), str(source.get("prefix") or "")) for source in container.get("envFrom") or ()]
    return [(str(ref["name"]), prefix) for ref, prefix in found if ref]


async def _config_map(world: World, name: str) -> Object | None:
    return await world.cluster.get(CONFIG_MAP, name, world.sovereign.catalyst_api.namespace)


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
    settled_ = not pushed.new and holds(change, target)
    await reconcile(world, repo, pushed.commit, must=frozenset([owner] if owner else []), again=not settled_)
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
    for name, value in values(world.sovereign).items():
        have = await _in(world, found["spec"]["template"], name)
        if have != value:
            said = "does not set" if have is None else "still sets another value for"
            where = ", ".join(".".join(str(part) for part in path) for path in change.fields)
            message = (
                f"{change} has {where}, but Deployment {api.namespace}/{api.deployment} {said} {name}: "
                "its chart does not render that value; set catalyst_api's value_path to the path that it does render"
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


async def _said(world: World, pods: list[Object]) -> dict[str, str]:
    """The values in the spec of every running Pod; raises Wait when one of them still says another."""
    api, wanted = world.sovereign.catalyst_api, values(world.sovereign)
    for pod in pods:
        for name, value in wanted.items():
            if await _in(world, pod, name) != value:
                raise Wait("OldPodRuns", f"Pod {api.namespace}/{name_of(pod)} does not say {name}={value} yet")
        for source, key in _references(pod, api, wanted):
            if later(await _config_map(world, source), key, pod):
                message = f"Pod {api.namespace}/{name_of(pod)} started before ConfigMap {source} said {key}"
                raise Wait("OldPodRuns", f"{message}: a process keeps the environment it began with; restart it")
    return wanted


def _references(pod: Object, api: CatalystApi, names: Iterable[str]) -> list[tuple[str, str]]:
    """(ConfigMap, key) that the variables come out of."""
    found: list[tuple[str, str]] = []
    for name in names:
        entry = variable(pod, api, name)
        ref = ((entry or {}).get("valueFrom") or {}).get("configMapKeyRef")
        if ref:
            found.append((str(ref["name"]), str(ref["key"])))
        elif entry is None:
            found += [(source, name.removeprefix(prefix)) for source, prefix in _taken_whole(pod, api)]
    return found


def later(config: Object | None, key: str, pod: Object) -> bool:
    """True when a ConfigMap got this value after the Pod had started: its process has another one."""
    said = flux.field_set_at(config, "data", key) if config is not None else None
    started = (pod.get("status") or {}).get("startTime")
    return said is not None and started is not None and said > flux.moment(started)


async def _value(world: World, entry: Mapping[str, Any]) -> str | None:
    """The value of an env entry, followed into the ConfigMap it comes from."""
    if "valueFrom" not in entry:
        return entry.get("value")
    ref = (entry["valueFrom"] or {}).get("configMapKeyRef")
    if not ref:
        message = f"{entry['name']} comes from {'/'.join(entry['valueFrom'] or {})}, which is not read here"
        raise Stuck("ValueNotReadable", f"{message}; set it as a plain value")
    value = at(await _config_map(world, str(ref["name"])), ("data", str(ref["key"])))
    return None if value is None else str(value)
