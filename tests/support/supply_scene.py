"""What steps 1 to 3 leave in local Gitea and Harbor, to be compared and taken back."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from typing import Any

import httpx
import orjson
from pivot_scene import FLUX, Scene

from workers.adapters.cluster import SECRET
from workers.tethers import DOCKER_CONFIG

SUPPLY = ("gitea-mirror", "harbor-projects", "harbor-prewarm")


async def supplied(it: Scene) -> dict[str, Any]:
    """Refs, default branch, projects, what the robot may do and whether its stored login works, every digest."""
    core = it.box.harbor._core
    here = it.bare.is_dir()
    return {
        "refs": it.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines() if here else None,
        "default": it.git("symbolic-ref", "HEAD").strip() if here else None,
        "organisations": sorted(it.box.sources.gitea.book.state["orgs"]),
        "projects": {n: (p.registry_id, p.metadata) for n, p in core.state.projects.items()},
        "robots": [(r.name, r.permissions, r.duration, r.disable) for r in core.state.robots.values()],
        "robot's login": await _robot_pulls(it),
        "tags": {name: core.store.tags(name) for name in core.store.repositories()},
        "manifests": {n: sorted(m.digest for m in core.store.manifests(n)) for n in core.store.repositories()},
        "half uploads": sorted(p.name for p in (it.box.directory / "harbor").rglob("_uploads/*")),
    }


async def _robot_pulls(it: Scene) -> int | None:
    """The status that the stored login gets; None when none is stored."""
    found = {key: obj for key, obj in it.objects().items() if key[0] == SECRET.plural and "harbor-robot" in key[2]}
    if not found:
        return None
    [secret] = found.values()
    [login] = orjson.loads(base64.b64decode(secret["data"][DOCKER_CONFIG]))["auths"].values()
    async with httpx.AsyncClient(auth=(login["username"], login["password"])) as http:
        return (await http.get(f"{it.box.harbor_url}/v2/openova-io/cutover-readers/tags/list")).status_code


def without_mirror(it: Scene) -> None:
    """Gitea as it was before step 1."""
    book = it.box.sources.gitea.book
    book.state["orgs"], book.state["repos"] = {}, {}
    book.write()
    shutil.rmtree(it.bare, ignore_errors=True)
    for desk in (it.box.directory / "workspace").rglob("mirror.git"):
        shutil.rmtree(desk)


def without_projects(it: Scene) -> None:
    """Harbor as it was before step 2, and no robot's Secret."""
    core = it.box.harbor._core
    for project in [p for p in core.state.projects.values() if p.name != "library"]:
        core.delete_project(project)
    core.state.robots.clear()
    for place, namespace, name in [key for key, _ in it.box.kube.store.everything()]:
        if place[1] == SECRET.plural and "harbor-robot" in name:
            assert namespace == FLUX
            it.box.kube.store.remove(place, namespace, name)


def without_copies(it: Scene) -> None:
    """Harbor's projects empty, as they were before step 3; the probe of step 2 stays."""
    core = it.box.harbor._core
    for repository in core.store.repositories():
        if not repository.endswith("/cutover-readers"):
            core.store.delete_repository(repository)
            core.state.repositories.pop(repository, None)


TAKE_BACK: dict[str, Callable[[Scene], None]] = dict(
    zip(SUPPLY, (without_mirror, without_projects, without_copies), strict=True)
)
