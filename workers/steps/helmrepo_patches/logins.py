"""Who may fetch from local Harbor, and that nobody may fetch upstream any more: first given, and taken last."""

from __future__ import annotations

import base64
from pathlib import Path

from pydantic import SecretStr

from workers import credentials
from workers import robot as robots
from workers.adapters.cluster import SECRET, Object, key_of, name_of
from workers.declared.reconcile import Key, each
from workers.errors import Stuck, Wait
from workers.steps.helmrepo_patches import packages
from workers.steps.helmrepo_patches.observed import FLUX_KINDS, Seen, observe
from workers.steps.helmrepo_patches.sources import Plan, ca_secret, pinned, rendered_by
from workers.supply.pull_secrets import Auths, Lent, entry, lent, pull_secret, strips
from workers.supply.sources import address, local_address
from workers.tethers import login_key, written_by
from workers.world import World


async def robot_login(world: World) -> Lent:
    """The robot that may pull and nothing else, with the secret that step 2 gave it last. Raises Wait, Stuck."""
    login = (await robots.auths(world))[world.sovereign.harbor.host]
    return Lent(username=str(login["username"]), secret=SecretStr(str(login["password"])))


async def provide(world: World, seen: Seen, todo: Plan, robot: Lent, public: frozenset[str]) -> int:
    """The Secrets that sources will refer to exist before those sources do, with the robot's newest secret.

    How many had to be written.
    """
    sovereign, login = world.sovereign, entry(world.sovereign.harbor.host, robot)
    name, wanted = sovereign.flux.registry_secret, []
    spaces = {c.namespace for c, _ in todo.changes if c.fields.get(("spec", "secretRef", "name")) == name}
    # Copies of an earlier run: the robot may have got a new secret since.
    spaces |= {ref[0] for obj in seen.sources for ref in _refers(world, obj) if ref[1] == name}
    if any("registry" in c["spec"] for c in packages.image_configs(seen.packages, sovereign, public)):
        spaces.add(sovereign.proof.crossplane[0])
    wanted += [pull_secret(name, namespace, login) for namespace in sorted(spaces)]
    for change, _ in todo.changes:
        if ("spec", "certSecretRef", "name") in change.fields:
            wanted.append(_ca(world, change.namespace))
    secrets = {key_of(secret): secret for secret in wanted}
    written: list[Key] = []

    async def put(secret: Object) -> None:
        have = await world.cluster.get(SECRET, secret["metadata"]["name"], secret["metadata"]["namespace"])
        if have is None or have.get("data") != secret["data"]:
            await world.cluster.apply(SECRET, secret)
            written.append(key_of(secret))

    await each(secrets.values(), put)
    return len(written) + await _lend(world, seen, login)


async def _lend(world: World, seen: Seen, login: Auths) -> int:
    """Sources that keep their pull secret find local Harbor in it: those that a chart renders, and packages."""
    kept = {
        ref
        for obj in seen.sources
        if local_address(address(obj), world.sovereign) and (rendered_by(obj) or obj["kind"] not in FLUX_KINDS)
        for ref in _refers(world, obj)
    }
    if not kept:
        return 0
    todo = lent(await credentials.secrets(world), kept, login)
    await each(todo, lambda pair: _rewrite(world, *pair))
    return len(todo)


async def _rewrite(world: World, secret: Object, data: str) -> None:
    meta = secret["metadata"]
    body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "data": {login_key(secret): data}}
    await world.cluster.patch(SECRET, meta["name"], meta["namespace"], body)


def _ca(world: World, namespace: str) -> Object:
    path = Path(world.sovereign.harbor.ca_file or "")
    try:
        certificate = path.read_bytes()
    except OSError as error:
        raise Stuck("CaUnreadable", f"harbor.ca_file {path}: {error.strerror}; mount it into the worker") from error
    meta = {"name": ca_secret(world.sovereign), "namespace": namespace}
    data = {"ca.crt": base64.b64encode(certificate).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data}


async def strip(world: World, before: Seen, public: frozenset[str], robot: Lent) -> int:
    """No pull secret opens a door upstream. How many had to be changed."""
    todo = await _strips(world, before, public, robot)
    if todo:
        await _pulled(world, robot)
    original = world.sovereign.flux.pull_secret
    # Copies are known by what the original holds: it goes last, or a second try would not know them.
    await each([p for p in todo if name_of(p[0]) != original], lambda pair: _rewrite(world, *pair))
    await each([p for p in todo if name_of(p[0]) == original], lambda pair: _rewrite(world, *pair))
    await stay_gone(world, before, public, robot)
    return len(todo)


async def stay_gone(world: World, before: Seen, public: frozenset[str], robot: Lent) -> None:
    """Raises Wait when an entry of the mothership's is there again: somebody who makes the Secret wrote it back."""
    if left := await _strips(world, before, public, robot):
        who = ", ".join(f"{'/'.join(key_of(secret))}{written_by(secret)}" for secret, _ in left[:5])
        raise Wait("PullSecretRestored", f"{who}: the mothership's entries came back after they were removed")


async def _pulled(world: World, robot: Lent) -> None:
    """Every pinned chart and package was pulled whole, with the robot's login and no other. Raises Stuck, Wait."""
    now, reader = await observe(world), world.registries.reading_as(robot)
    wanted = pinned(now.sources, now.charts.values(), now.releases.values(), world.sovereign)
    await each(wanted, lambda artifact: reader.pull_chart(artifact.repository, artifact.reference))


async def _strips(world: World, before: Seen, public: frozenset[str], robot: Lent) -> list[tuple[Object, str]]:
    sovereign = world.sovereign
    referenced = {
        ref for obj in before.sources if local_address(address(obj), sovereign) for ref in _refers(world, obj)
    }
    projects = {u.project for u in sovereign.upstreams} | {sovereign.mothership.chart_project}
    # Credentials of local Harbor go into pull secrets only where a project asks for any.
    asks = any([not await world.harbor.is_public(project) for project in sorted(projects - public)])
    local: Auths = entry(sovereign.harbor.host, robot) if asks else {}
    return strips(await credentials.secrets(world), sovereign, referenced, local)


def _refers(world: World, obj: Object) -> list[Key]:
    """The pull secrets that a source names; those of packages lie in Crossplane's namespace."""
    spec = obj["spec"]
    if obj["kind"] not in FLUX_KINDS:
        return [(world.sovereign.proof.crossplane[0], str(ref["name"])) for ref in spec.get("packagePullSecrets") or []]
    name = (spec.get("secretRef") or {}).get("name")
    return [(key_of(obj)[0], str(name))] if name else []
