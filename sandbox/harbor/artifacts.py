"""Harbor's view of what its projects hold: repositories, artifacts, tags."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

from aiohttp import web

from sandbox.harbor.api import admin, answer, found_project, page_of, stamp
from sandbox.harbor.core import Core
from sandbox.registry.answers import Problem
from sandbox.registry.store import Stored

_KINDS = {"application/vnd.cncf.helm.config.v1+json": "CHART", "application/vnd.in-toto+json": "IN-TOTO"}


class Artifacts:
    """The handlers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self, router: web.UrlDispatcher) -> None:
        """Put the handlers on their paths. A `/` in a repository's name comes double-encoded (%252F)."""
        project = "/api/v2.0/projects/{project}/repositories"
        router.add_get(project, self._repositories)
        router.add_get(f"{project}/{{repository}}", self._repository)
        router.add_delete(f"{project}/{{repository}}", self._delete_repository)
        router.add_get(f"{project}/{{repository}}/artifacts", self._artifacts)
        router.add_get(f"{project}/{{repository}}/artifacts/{{reference}}", self._artifact)
        router.add_delete(f"{project}/{{repository}}/artifacts/{{reference}}", self._delete)

    async def _repositories(self, request: web.Request) -> web.Response:
        self._core.retain()
        project = found_project(self._core, request, self._core.caller(request))
        names = self._core.repositories(project.name)
        return page_of(request, [self._repository_view(n, project.project_id) for n in names])

    async def _repository(self, request: web.Request) -> web.Response:
        name, project_id = self._found(request)
        return answer(self._repository_view(name, project_id))

    async def _delete_repository(self, request: web.Request) -> web.Response:
        name, _ = self._found(request)
        admin(self._core.caller(request))
        self._core.store.delete_repository(name)
        self._core.state.repositories.pop(name, None)
        self._core.changed()
        return web.Response()

    async def _artifacts(self, request: web.Request) -> web.Response:
        """Children of an index are not listed, as in Harbor; they are reached through its references."""
        name, project_id = self._found(request)
        held = list(self._core.store.manifests(name))
        children = {c["digest"] for m in held if m.is_index for c in m.document["manifests"]}
        tagged = set(self._core.store.tags(name).values())
        roots = [m for m in held if m.digest not in children or m.digest in tagged]
        return page_of(request, [self._view(name, project_id, m) for m in roots])

    async def _artifact(self, request: web.Request) -> web.Response:
        name, project_id = self._found(request)
        return answer(self._view(name, project_id, self._manifest(request, name)))

    async def _delete(self, request: web.Request) -> web.Response:
        name, _ = self._found(request)
        admin(self._core.caller(request))
        self._core.delete_artifact(name, self._manifest(request, name).digest)
        return web.Response()

    def _found(self, request: web.Request) -> tuple[str, int]:
        self._core.retain()
        project = found_project(self._core, request, self._core.caller(request))
        short = unquote(request.match_info["repository"])
        name = f"{project.name}/{short}"
        if name not in self._core.repositories(project.name):
            raise Problem(404, "NOT_FOUND", f"repository {name} not found")
        return name, project.project_id

    def _manifest(self, request: web.Request, repository: str) -> Stored:
        reference = request.match_info["reference"]
        found = self._core.store.manifest(repository, reference)
        if found is None:
            raise Problem(404, "NOT_FOUND", f"artifact {repository}:{reference} not found")
        return found

    def _repository_view(self, name: str, project_id: int) -> dict[str, Any]:
        record = self._core.repository_record(name)
        return {
            "id": record.id,
            "name": name,
            "project_id": project_id,
            "artifact_count": sum(1 for _ in self._core.store.manifests(name)),
            "pull_count": record.pull_count,
            "creation_time": stamp(record.creation_time),
            "update_time": stamp(record.creation_time),
        }

    def _view(self, repository: str, project_id: int, stored: Stored) -> dict[str, Any]:
        record = self._core.record(repository, stored.digest)
        row = self._core.repository_record(repository).id
        document = stored.document
        config = document.get("config", {}).get("mediaType", stored.media_type)
        parts = [document.get("config") or {}, *(document.get("layers") or [])]
        view: dict[str, Any] = {
            "id": record.id,
            "type": _KINDS.get(config, "IMAGE"),
            "media_type": config,
            "manifest_media_type": stored.media_type,
            "artifact_type": str(document.get("artifactType") or config),
            "project_id": project_id,
            "repository_id": row,
            "repository_name": repository,
            "digest": stored.digest,
            "size": len(stored.content) + sum(int(p.get("size", 0)) for p in parts),
            "push_time": stamp(record.push_time),
            "pull_time": stamp(record.pull_time) if record.pull_time else "0001-01-01T00:00:00.000Z",
            "tags": self._tags(repository, stored.digest, record.id, row, stamp(record.push_time)),
            "references": self._references(repository, record.id, stored),
            "addition_links": self._links(repository, stored.digest),
        }
        return view | ({"annotations": document["annotations"]} if document.get("annotations") else {})

    def _links(self, repository: str, digest: str) -> dict[str, Any]:
        project, _, short = repository.partition("/")
        encoded = quote(quote(short, safe=""), safe="")
        path = f"/api/v2.0/projects/{project}/repositories/{encoded}/artifacts/{digest}/additions/build_history"
        return {"build_history": {"absolute": False, "href": path}}

    def _tags(self, repository: str, digest: str, artifact: int, row: int, pushed: str) -> list[dict[str, Any]]:
        names = [t for t, d in self._core.store.tags(repository).items() if d == digest]
        common = {"artifact_id": artifact, "repository_id": row, "push_time": pushed, "immutable": False}
        return [{"id": artifact * 1000 + n, "name": name, **common} for n, name in enumerate(names)]

    def _references(self, repository: str, parent: int, stored: Stored) -> list[dict[str, Any]]:
        if not stored.is_index:
            return []
        return [
            {
                "parent_id": parent,
                "child_id": self._core.record(repository, child["digest"]).id,
                "child_digest": child["digest"],
                "platform": {
                    k: str(v)
                    for k, v in (child.get("platform") or {}).items()
                    if k in ("architecture", "os", "variant")
                },
                **({"annotations": child["annotations"]} if child.get("annotations") else {}),
            }
            for child in stored.document["manifests"]
        ]
