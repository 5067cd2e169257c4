"""Every answer of the sandbox's Harbor satisfies Harbor's own OpenAPI document (2.14.3).

Stricter than the document in one way: a field that it does not know is an error. Go-swagger's `type: object`
without properties means "anything" there, and is read so here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from sandbox.clock import Clock
from sandbox.harbor import Harbor
from sandbox.images import Publisher
from sandbox.registry import Registry
from sandbox.serving import serving

SWAGGER = Path(__file__).parents[3] / "../shared/data/api/harbor-2.14.3-swagger.yaml"
PASSWORD = "Harbor12345"
BASE = "/api/v2.0"
UNDOCUMENTED = frozenset(
    {
        # What real Harbor answers though its document does not list it (server/v2.0/handler of 2.14.3).
        ("GET", "/projects/{project_name_or_id}", 403),
        ("GET", "/projects/{project_name_or_id}", 404),
        ("HEAD", "/projects", 401),
        ("POST", "/projects", 403),
        ("POST", "/projects", 422),
        ("GET", "/retentions/{id}", 404),
        ("DELETE", "/retentions/{id}", 404),
        ("POST", "/robots", 409),
        ("GET", "/robots", 401),
        ("GET", "/projects", 422),
    }
)


@cache
def document() -> dict[str, Any]:
    if not SWAGGER.exists():
        pytest.skip("Harbor's OpenAPI document is not here: its answers are NOT checked in this run")
    loaded: dict[str, Any] = yaml.safe_load(SWAGGER.read_text(encoding="utf-8"))
    return loaded


def strict(node: Any) -> Any:
    """The schema in jsonschema's words: nullable, anything, and nothing beside the known fields."""
    if isinstance(node, list):
        return [strict(n) for n in node]
    if not isinstance(node, dict):
        return node
    made = {k: strict(v) for k, v in node.items() if k != "example"}
    if node.get("type") == "object" and "properties" not in node and "additionalProperties" not in node:
        return {}
    if node.get("type") == "object" and "properties" in node:
        made.setdefault("additionalProperties", False)
    if node.get("x-nullable") and isinstance(node.get("type"), str):
        made["type"] = [node["type"], "null"]
    return made


@cache
def definitions() -> dict[str, Any]:
    return {name: strict(schema) for name, schema in document()["definitions"].items()}


def template(path: str) -> str:
    """The document's path for a request's path: the most literal one that fits."""
    fits = []
    for known in document()["paths"]:
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", known), path):
            fits.append(known)
    assert fits, f"the document knows no path {path}"
    return min(fits, key=lambda known: known.count("{"))


def check(answer: httpx.Response) -> None:
    """The status is documented for the operation, the body is what the document says."""
    method = answer.request.method
    path = template(answer.request.url.raw_path.decode().partition("?")[0].removeprefix(BASE))
    operation = document()["paths"][path][method.lower()]
    said = operation["responses"].get(str(answer.status_code))
    if said is None:
        assert (method, path, answer.status_code) in UNDOCUMENTED, f"{method} {path}: {answer.status_code}"
        said = {"schema": {"$ref": "#/definitions/Errors"}}
    if "$ref" in said:
        said = document()["responses"][said["$ref"].rpartition("/")[2]]
    schema = said.get("schema")
    if method == "HEAD" or schema is None:
        assert answer.content == b"", f"{method} {path} {answer.status_code} has a body that is not documented"
        return
    if schema == {"type": "string"}:
        assert answer.text
        return
    whole = {**strict(copy.deepcopy(schema)), "definitions": definitions()}
    jsonschema.Draft4Validator(whole).validate(answer.json())
    for name in said.get("headers", {}):
        if name in ("X-Total-Count", "Location") and answer.status_code < 300:
            assert name in answer.headers, f"{method} {path} lacks {name}"


class Harbors:
    """The Harbor under contract: each answer is checked as it comes."""

    def __init__(self, harbor: Harbor, http: httpx.AsyncClient) -> None:
        self.harbor = harbor
        self.http = http
        self.operations: set[tuple[str, str]] = set()

    async def ask(self, method: str, path: str, expect: int, **more: Any) -> httpx.Response:
        answer = await self.http.request(method, f"{BASE}{path}", **more)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        check(answer)
        return answer


@pytest.fixture
async def harbor(tmp_path: Path) -> AsyncIterator[Harbors]:
    document()
    async with AsyncExitStack() as stack:
        ghcr = Registry.open(tmp_path / "ghcr", "ghcr.io", Clock())
        port = await stack.enter_async_context(serving(ghcr.app))
        urls = {"ghcr.io": f"http://127.0.0.1:{port}", "quay.io": f"http://127.0.0.1:{port}"}

        def upstream_url(host: str) -> str:
            return urls[host]

        made = Harbor.open(tmp_path / "harbor", "harbor.test", Clock(), PASSWORD, upstream_url)
        url = f"http://127.0.0.1:{await stack.enter_async_context(serving(made.app))}"
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, auth=("admin", PASSWORD)))
        yield Harbors(made, http)


ANYBODY = {"auth": None}
WRONG = {"auth": ("admin", "wrong")}


async def test_health_ping_and_systeminfo(harbor: Harbors) -> None:
    assert (await harbor.ask("GET", "/health", 200, **ANYBODY)).json()["status"] == "healthy"
    assert (await harbor.ask("GET", "/ping", 200)).text == "Pong"
    assert "harbor_version" in (await harbor.ask("GET", "/systeminfo", 200)).json()
    anybody = httpx.AsyncClient(base_url=harbor.http.base_url)
    async with anybody:
        answer = await anybody.get(f"{BASE}/systeminfo")
        check(answer)
        assert "harbor_version" not in answer.json(), "the version is told to who is signed in"
    await harbor.ask("GET", "/users/current", 200)


async def test_projects(harbor: Harbors) -> None:
    body = {"project_name": "proxy-ghcr", "metadata": {"public": "true"}}
    made = await harbor.ask("POST", "/projects", 201, json=body)
    by_id = made.headers["location"].removeprefix(BASE)
    conflict = await harbor.ask("POST", "/projects", 409, json=body)
    assert conflict.json()["errors"][0]["code"] == "CONFLICT"
    await harbor.ask("POST", "/projects", 400, json={"project_name": "Capital"})
    await harbor.ask("POST", "/projects", 401, json=body, **WRONG)
    await harbor.ask("HEAD", "/projects", 200, params={"project_name": "proxy-ghcr"})
    await harbor.ask("HEAD", "/projects", 404, params={"project_name": "no-such"})
    got = await harbor.ask("GET", "/projects/proxy-ghcr", 200)
    assert got.json()["metadata"]["public"] == "true"
    assert (await harbor.ask("GET", by_id, 200)).json() == got.json()
    await harbor.ask("GET", by_id, 404, headers={"X-Is-Resource-Name": "true"})
    await harbor.ask("GET", "/projects/no-such", 404)
    await harbor.ask("PUT", "/projects/proxy-ghcr", 200, json={"metadata": {"public": "false"}})
    await harbor.ask("GET", "/projects/proxy-ghcr/summary", 200)
    await harbor.ask("GET", "/projects/proxy-ghcr/metadatas/", 200)
    listed = await harbor.ask("GET", "/projects", 200, params={"page_size": 1})
    assert (len(listed.json()), listed.headers["x-total-count"]) == (1, "2")
    assert 'rel="next"' in listed.headers["link"]
    await harbor.ask("GET", "/projects", 422, params={"page_size": 500})
    await harbor.ask("DELETE", "/projects/proxy-ghcr", 200)
    await harbor.ask("DELETE", "/projects/proxy-ghcr", 404)


async def test_a_private_project_is_hidden_from_anybody(harbor: Harbors) -> None:
    await harbor.ask("POST", "/projects", 201, json={"project_name": "secret"})
    async with httpx.AsyncClient(base_url=harbor.http.base_url) as anybody:
        listed = await anybody.get(f"{BASE}/projects")
        check(listed)
        assert [p["name"] for p in listed.json()] == ["library"]
        for path, status in (("/projects/secret", 401), ("/registries", 401), ("/robots", 401)):
            answer = await anybody.get(f"{BASE}{path}")
            check(answer)
            assert answer.status_code == status


async def test_registries(harbor: Harbors) -> None:
    body = {"name": "ghcr", "url": "https://ghcr.io", "type": "github-ghcr"}
    login = {"type": "basic", "access_key": "u", "access_secret": "never-shown"}
    made = await harbor.ask("POST", "/registries", 201, json={**body, "credential": login})
    path = made.headers["location"].removeprefix(BASE)
    assert "never-shown" not in (await harbor.ask("GET", path, 200)).text
    await harbor.ask("POST", "/registries", 409, json=body)
    ill = await harbor.ask("POST", "/registries", 400, json={**body, "name": "x", "url": "https://no.where"})
    assert "unhealthy" in ill.text
    await harbor.ask("POST", "/registries", 400, json={**body, "name": "y", "type": "no-such"})
    found = await harbor.ask("GET", "/registries", 200, params={"q": "name=ghcr"})
    assert [r["name"] for r in found.json()] == ["ghcr"]
    await harbor.ask("PUT", path, 200, json={"description": "the mothership's"})
    await harbor.ask("POST", "/registries/ping", 200, json={"id": int(path.rpartition("/")[2])})
    await harbor.ask("GET", "/registries/99", 404)
    await harbor.ask("GET", "/registries", 401, **WRONG)
    proxy = {"project_name": "p", "registry_id": int(path.rpartition("/")[2])}
    await harbor.ask("POST", "/projects", 201, json=proxy)
    await harbor.ask("DELETE", path, 412)
    await harbor.ask("DELETE", "/projects/p", 200)
    await harbor.ask("DELETE", path, 200)


async def test_a_proxy_of_quay_is_not_permitted_and_a_proxy_of_ghcr_has_a_retention(harbor: Harbors) -> None:
    quay = {"name": "quay", "url": "https://quay.io", "type": "quay"}
    made = await harbor.ask("POST", "/registries", 201, json=quay)
    number = int(made.headers["location"].rpartition("/")[2])
    refused = await harbor.ask("POST", "/projects", 400, json={"project_name": "q", "registry_id": number})
    assert "unsupported registry type quay" in refused.text
    ghcr = {"name": "ghcr", "url": "https://ghcr.io", "type": "github-ghcr"}
    made = await harbor.ask("POST", "/registries", 201, json=ghcr)
    number = int(made.headers["location"].rpartition("/")[2])
    await harbor.ask("POST", "/projects", 201, json={"project_name": "g", "registry_id": number})
    project = (await harbor.ask("GET", "/projects/g", 200)).json()
    assert project["registry_id"] == number
    path = f"/retentions/{project['metadata']['retention_id']}"
    policy = (await harbor.ask("GET", path, 200)).json()
    assert policy["rules"][0]["params"] == {"nDaysSinceLastPull": 7}
    await harbor.ask("PUT", path, 200, json=policy)
    await harbor.ask("DELETE", path, 200)
    await harbor.ask("GET", path, 404)
    assert "retention_id" not in (await harbor.ask("GET", "/projects/g", 200)).json()["metadata"]


async def test_robots(harbor: Harbors) -> None:
    access = [{"resource": "repository", "action": "pull"}]
    body = {
        "name": "nodes",
        "level": "system",
        "duration": -1,
        "permissions": [{"kind": "project", "namespace": "*", "access": access}],
    }
    made = (await harbor.ask("POST", "/robots", 201, json=body)).json()
    assert made["name"] == "robot$nodes"
    path = f"/robots/{made['id']}"
    assert "secret" not in (await harbor.ask("GET", path, 200)).json(), "it is told once"
    await harbor.ask("GET", "/robots", 200)
    await harbor.ask("POST", "/robots", 409, json=body)
    await harbor.ask("POST", "/robots", 400, json={**body, "duration": 0})
    fresh = (await harbor.ask("PATCH", path, 200, json={})).json()["secret"]
    assert fresh != made["secret"]
    async with httpx.AsyncClient(base_url=harbor.http.base_url, auth=("robot$nodes", fresh)) as robot:
        assert (await robot.get("/v2/")).status_code == 200
        forbidden = await robot.get(f"{BASE}/registries")
        check(forbidden)
        assert forbidden.status_code == 403
    await harbor.ask("DELETE", path, 200)
    await harbor.ask("GET", path, 404)


async def test_repositories_artifacts_and_quotas(harbor: Harbors) -> None:
    store = harbor.harbor.store
    index = Publisher(store, "library/a/b").package("ghcr.io/a/b:1.0", "1.0")
    Publisher(store, "library/chart").chart("chart", "0.1.0", b"archive")
    listed = await harbor.ask("GET", "/projects/library/repositories", 200)
    assert [r["name"] for r in listed.json()] == ["library/a/b", "library/chart"]
    repository = "/projects/library/repositories/a%252Fb"
    await harbor.ask("GET", repository, 200)
    artifacts = (await harbor.ask("GET", f"{repository}/artifacts", 200)).json()
    assert [a["digest"] for a in artifacts] == [index], "children are reached through the index"
    assert [t["name"] for t in artifacts[0]["tags"]] == ["1.0"]
    child = artifacts[0]["references"][0]["child_digest"]
    assert (await harbor.ask("GET", f"{repository}/artifacts/{child}", 200)).json()["digest"] == child
    await harbor.ask("GET", f"{repository}/artifacts/1.0", 200)
    await harbor.ask("GET", f"{repository}/artifacts/2.0", 404)
    await harbor.ask("GET", "/projects/library/repositories/no-such", 404)
    chart = await harbor.ask("GET", "/projects/library/repositories/chart/artifacts/0.1.0", 200)
    assert chart.json()["type"] == "CHART"
    await harbor.ask("DELETE", "/projects/library", 412)
    quotas = (await harbor.ask("GET", "/quotas", 200)).json()
    assert quotas[0]["used"]["storage"] > 0
    await harbor.ask("GET", f"/quotas/{quotas[0]['id']}", 200)
    await harbor.ask("GET", "/quotas/999", 404)
    await harbor.ask("DELETE", f"{repository}/artifacts/1.0", 200)
    await harbor.ask("DELETE", "/projects/library/repositories/chart", 200)


async def test_the_check_itself_sees_an_answer_that_is_wrong(harbor: Harbors) -> None:
    answer = await harbor.ask("GET", "/projects/library", 200)
    for spoiled in ({"name": 7}, {"invented": True}):
        body = answer.json() | spoiled
        wrong = httpx.Response(200, json=body, request=answer.request)
        with pytest.raises(jsonschema.ValidationError):
            check(wrong)
    with pytest.raises(AssertionError, match="418"):
        check(httpx.Response(418, json={}, request=answer.request))
