"""An API server to hold to the contract: the sandbox's always, and a real one when KUBECONFIG names it.

On a real server the definitions of Flux, Crossplane and Cilium are expected to be installed; what is not is skipped.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from sandbox.clock import Clock
from sandbox.kube import KubeApi

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
SERVERS = ["sandbox", *(["real"] if os.environ.get("KUBECONFIG") else [])]

Object = dict[str, Any]


@dataclass
class Answer:
    """What came back."""

    status: int
    body: Any
    warning: str = ""


@dataclass
class Kube:
    """One API server, in plain HTTP."""

    http: aiohttp.ClientSession
    url: str
    tls: ssl.SSLContext | bool
    bearer: ssl.SSLContext | bool
    """For callers who come with a token: without the client certificate."""

    async def ask(self, method: str, path: str, body: Any = None, *, kind: str = "application/json", token: str = "",
                  **query: str) -> Answer:  # fmt: skip
        """One request; with a token, as its holder."""
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
        async with self.http.request(
            method,
            self.url + path,
            params=query,
            data=None if body is None else json.dumps(body),
            headers=headers,
            ssl=self.bearer if token else self.tls,
        ) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return Answer(response.status, json.loads(text) if is_json else text, response.headers.get("Warning", ""))

    async def make(self, path: str, body: Object) -> Object:
        """Create an object that must succeed."""
        answer = await self.ask("POST", path, body)
        assert answer.status == 201, answer.body
        made: Object = answer.body
        return made

    async def merge(self, path: str, body: Object, **query: str) -> Answer:
        """A merge patch."""
        return await self.ask("PATCH", path, body, kind=MERGE, **query)

    async def apply(self, path: str, body: Object, manager: str, **query: str) -> Answer:
        """A server-side apply."""
        return await self.ask("PATCH", path, body, kind=APPLY, fieldManager=manager, **query)

    async def watch(self, path: str, seconds: int, **query: str) -> list[Object]:
        """All events of a watch, until the server ends it."""
        asked = {"watch": "1", "timeoutSeconds": str(seconds), **query}
        async with self.http.get(self.url + path, params=asked, ssl=self.tls) as response:
            lines = (await response.text()).splitlines()
        events: list[Object] = [json.loads(line) for line in lines]
        return events


@dataclass
class Home:
    """A namespace of the test's own."""

    kube: Kube
    name: str
    controllers: bool
    """Whether kube-controller-manager (or what stands for it) is at work: garbage is collected."""

    def path(self, plural: str, name: str = "", group: str = "", version: str = "v1") -> str:
        """The path of a collection or object here."""
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        return f"{root}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    def config_map(self, name: str = "") -> str:
        """The path of a ConfigMap here."""
        return self.path("configmaps", name)

    def helm_repository(self, name: str = "", version: str = "v1") -> str:
        """The path of a HelmRepository here."""
        return self.path("helmrepositories", name, "source.toolkit.fluxcd.io", version)


def _material(entry: Object, key: str) -> bytes | None:
    if inline := entry.get(f"{key}-data"):
        return base64.b64decode(inline)
    return Path(entry[key]).read_bytes() if entry.get(key) else None


def _tls(cluster: Object, user: Object, directory: Path) -> ssl.SSLContext | bool:
    if not cluster["server"].startswith("https"):
        return True
    authority = _material(cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    certificate, key = _material(user, "client-certificate"), _material(user, "client-key")
    if certificate and key:
        file = directory / f"client-{secrets.token_hex(4)}.pem"
        file.touch(mode=0o600)
        file.write_bytes(certificate + b"\n" + key)
        context.load_cert_chain(file)
    return context


@asynccontextmanager
async def connected(kubeconfig: Path, directory: Path) -> AsyncIterator[Kube]:
    """The server of a kubeconfig's current context."""
    document = yaml.safe_load(kubeconfig.read_text())

    def entry(kind: str, name: str) -> Object:
        found: Object = next(one for one in document[f"{kind}s"] if one["name"] == name)[kind]
        return found

    context = entry("context", document["current-context"])
    cluster, user = entry("cluster", context["cluster"]), entry("user", context["user"])
    token = user.get("token") or (Path(user["tokenFile"]).read_text().strip() if "tokenFile" in user else "")
    headers = {"User-Agent": "contract/1"} | ({"Authorization": f"Bearer {token}"} if token else {})
    async with aiohttp.ClientSession(headers=headers) as http:
        tls, bare = _tls(cluster, user, directory), _tls(cluster, {}, directory)
        yield Kube(http, cluster["server"].rstrip("/"), tls, bare)


@pytest.fixture(params=SERVERS)
async def kube(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kube]:
    if request.param == "real":
        async with connected(Path(os.environ["KUBECONFIG"]), tmp_path) as real:
            yield real
        return
    async with (
        KubeApi.open(tmp_path / "kube", Clock()) as sandbox,
        connected(sandbox.kubeconfig(tmp_path / "kubeconfig"), tmp_path) as kube,
    ):
        yield kube


@pytest.fixture
async def home(kube: Kube) -> AsyncIterator[Home]:
    """A namespace, removed in the end with all that is in it (a bare API server has nobody who empties it)."""
    name = f"contract-{secrets.token_hex(4)}"
    await kube.make("/api/v1/namespaces", {"metadata": {"name": name}})
    home = Home(kube, name, False)
    home.controllers = await _controlled(home)
    yield home
    for path in (home.config_map(), home.helm_repository(), home.path("secrets"), home.path("deployments", "", "apps")):
        await kube.ask("DELETE", path)
    answer = await kube.ask("DELETE", f"/api/v1/namespaces/{name}")
    assert answer.status == 200


async def _controlled(home: Home) -> bool:
    """Whether someone gives the new namespace its default account, as kube-controller-manager does."""
    for _ in range(30):
        if (await home.kube.ask("GET", home.path("serviceaccounts", "default"))).status == 200:
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.fixture
async def flux(home: Home) -> Home:
    """A namespace on a server that has the definitions of Flux."""
    if (await home.kube.ask("GET", home.helm_repository())).status == 404:
        pytest.skip("the definitions of Flux are not installed on this server")
    return home
