"""The robot account that may pull from local Harbor, and its one Secret: made by step 2, read by whoever pulls.

Step 2 writes Secret `sovereign.harbor.robot_secret` in Flux's namespace. Harbor tells a secret once and accepts one at
a time: from the moment of a new one older copies are refused, with 401 even in a public project. So a later run of
step 2 rotates it while nobody has a copy. Copies lie in Pods' pull secrets (step 4) and in those of HelmRepositories
and Crossplane (step 6), which step 2 may not write: between the steps, and for good when step 3 fails, nodes could not
pull with them. While there is one, and Harbor accepts it, it stays; to rotate it all the same, delete the Secret.
Whoever keeps a copy asks `auths` after step 2 and rewrites it whenever it is another one. The login's name stays the
same for ever.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import SecretStr

from workers import credentials
from workers.adapters.cluster import HELM_REPOSITORY, OCI_REPOSITORY, SECRET, Object, key_of
from workers.adapters.harbor import Robot
from workers.errors import Stuck, Wait
from workers.supply.pull_secrets import Lent
from workers.tethers import DOCKER_CONFIG, auths_of
from workers.world import World


@dataclass(frozen=True, slots=True)
class Standing:
    """The login that an earlier run stored, and `namespace/name` of every Secret that has a copy of it."""

    login: Lent
    copies: tuple[str, ...]


async def standing(world: World) -> Standing | None:
    """What can be seen of it; None without a stored login. Raises Wait, Stuck when Secrets cannot be listed."""
    sovereign = world.sovereign
    secrets = await credentials.secrets(world)
    own = (sovereign.flux.namespace, sovereign.harbor.robot_secret)
    mine = next((_entries(secret).get(sovereign.harbor.host) for secret in secrets if key_of(secret) == own), None)
    if not isinstance(mine, dict) or not mine.get("username") or not mine.get("password"):
        return None
    copies = {key_of(s) for s in secrets if key_of(s) != own and _has(_entries(s).values(), mine)}
    copies |= await _unseen(world)
    login = Lent(username=str(mine["username"]), secret=SecretStr(str(mine["password"])))
    return Standing(login, tuple(sorted("/".join(key) for key in copies)))


def _entries(secret: Object) -> dict[str, Any]:
    try:
        return auths_of(secret)
    except ValueError:
        return {}  # nobody pulls with what nobody can read


def _has(entries: Iterable[Any], login: Mapping[str, Any]) -> bool:
    """The same login, however the entry is written."""
    plain = f"{login['username']}:{login['password']}"
    token = base64.b64encode(plain.encode()).decode()
    found = [entry for entry in entries if isinstance(entry, Mapping)]
    return any(entry.get("auth") == token or entry.get("password") == login["password"] for entry in found)


async def _unseen(world: World) -> set[tuple[str, str]]:
    """Copies of step 6 in namespaces whose Secrets are not read: sources name them."""
    places, cluster = credentials.places(world.sovereign), world.cluster
    if None in places:
        return set()
    sources = [
        s for kind in (HELM_REPOSITORY, OCI_REPOSITORY) if await cluster.served(kind) for s in await cluster.list(kind)
    ]
    named = {(key_of(s)[0], str((s["spec"].get("secretRef") or {}).get("name", ""))) for s in sources}
    return {key for key in named if key[0] not in places and key[1] == world.sovereign.flux.registry_secret}


async def store(world: World, robot: Robot) -> None:
    """The robot's login stands in its Secret, of type kubernetes.io/dockerconfigjson."""
    harbor = world.sovereign.harbor
    metadata = {"name": harbor.robot_secret, "namespace": world.sovereign.flux.namespace}
    await world.cluster.apply(SECRET, _pull_secret(metadata, harbor.host, robot))


async def auths(world: World) -> dict[str, Any]:
    """`{harbor.host: {username, password, auth}}` as step 2 left it in this run: ready for a dockerconfigjson.

    Raises Wait `RobotAbsent` when step 2 has not stored it, Stuck `RobotUnreadable` when it is no pull secret.
    """
    harbor, namespace = world.sovereign.harbor, world.sovereign.flux.namespace
    where = f"Secret {namespace}/{harbor.robot_secret}"
    secret = await world.cluster.get(SECRET, harbor.robot_secret, namespace)
    if secret is None:
        raise Wait("RobotAbsent", f"{where} is not there; harbor-projects makes it")
    try:
        found = auths_of(secret)
    except ValueError as error:
        raise Stuck("RobotUnreadable", f"{where}: {error}; run harbor-projects again") from None
    login = found.get(harbor.host)
    if not isinstance(login, dict) or not login.get("username") or not login.get("password"):
        raise Stuck("RobotUnreadable", f"{where} has no login for {harbor.host}; run harbor-projects again")
    return {harbor.host: dict(login)}


def _pull_secret(metadata: dict[str, str], host: str, robot: Robot) -> dict[str, Any]:
    """As kubelet and Flux read it."""
    password = robot.secret.get_secret_value()
    both = base64.b64encode(f"{robot.login}:{password}".encode()).decode()
    login = {host: {"username": robot.login, "password": password, "auth": both}}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "kubernetes.io/dockerconfigjson",
        "data": {DOCKER_CONFIG: base64.b64encode(orjson.dumps({"auths": login})).decode()},
    }
