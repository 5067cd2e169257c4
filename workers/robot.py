"""The robot account that may pull from local Harbor, and its one Secret: made by step 2, read by whoever pulls.

Step 2 writes Secret `sovereign.harbor.robot_secret` in Flux's namespace and rotates the robot's secret on every run:
Harbor tells a secret once, so who comes again can only make a new one. From that moment older copies are refused,
with 401 even in a public project. So whoever keeps a copy elsewhere (step 6: pull secrets of HelmRepositories,
ServiceAccounts and Crossplane) asks `auths` in the same run, after step 2, and rewrites every copy each time, also
when nothing else changed. The login's name stays the same for ever.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson

from workers.adapters.cluster import SECRET
from workers.adapters.harbor import Robot
from workers.errors import Stuck, Wait
from workers.tethers import DOCKER_CONFIG, auths_of
from workers.world import World


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
