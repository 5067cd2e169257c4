"""A Kubernetes API server in this process, its state in a directory."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import orjson

from sandbox.clock import Clock
from sandbox.kube import errors
from sandbox.kube.access import Tokens, named
from sandbox.kube.api import Api, Request
from sandbox.kube.collector import Collector
from sandbox.kube.definitions import bundled
from sandbox.kube.server import Server
from sandbox.kube.store import Store
from sandbox.serving import serving

Object = dict[str, Any]
NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
RBAC = "/apis/rbac.authorization.k8s.io/v1"
YEAR = 365 * 24 * 3600  # seconds


class LocalClient:
    """The API without a wire: the same paths, bodies and answers as over HTTP."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        user: str = "system:admin",
    ) -> tuple[int, Any]:
        """Status and body, the body the caller's own."""
        await asyncio.sleep(0)  # a caller in a loop must not keep the others from their turn
        request = self._request(method, path, body, query or {}, content_type, user)
        answer = self._api.answer(request)
        if isinstance(answer.body, str):
            return answer.code, answer.body
        return answer.code, orjson.loads(orjson.dumps(answer.body))

    async def watch(
        self, path: str, query: Mapping[str, str] | None = None, *, user: str = "system:admin"
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """Events of a watch; raises `errors.ApiError` when it is refused."""
        request = self._request("GET", path, None, {**(query or {}), "watch": "1"}, "application/json", user)
        try:
            watch, _ = self._api.watch(request)
        except errors.NoSuchPath as error:
            raise errors.ApiError(404, "NotFound", f"nothing is served at {path}") from error
        try:
            async for kind, obj in watch.events():
                yield kind, orjson.loads(orjson.dumps(obj))
        finally:
            watch.close()

    def _request(
        self, method: str, path: str, body: Any, query: Mapping[str, str], content_type: str, user: str
    ) -> Request:
        bare, _, rest = path.partition("?")
        asked = {**dict(parse_qsl(rest, keep_blank_values=True)), **query}
        who = named(user)
        agent = user.rpartition(":")[2]
        return Request(method, bare, who, asked, body, content_type, agent=agent)


class KubeApi:
    """One API server. `open` it on a directory; what it holds is there again the next time."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._file = directory / "state.json"
        self._clock = clock
        self.store = Store()
        state = orjson.loads(self._file.read_bytes()) if self._file.exists() else None
        self._keys: dict[str, str] = (
            state["keys"] if state else {"admin": secrets.token_urlsafe(32), "signing": secrets.token_urlsafe(32)}
        )
        tokens = Tokens(self.store, self._keys["signing"], self._keys["admin"])
        self.api = Api(self.store, clock, tokens)
        self.local = LocalClient(self.api)
        self.port = 0
        self._listening: AsyncExitStack | None = None
        self._fresh = state is None
        if state:
            self.store.load(state)
            self.api.definitions.read()

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path, clock: Clock, port: int = 0) -> AsyncIterator[KubeApi]:
        """Serve what the directory holds; a new one begins with namespaces and our definitions."""
        directory.mkdir(parents=True, exist_ok=True)
        kube = cls(directory, clock)
        collector = Collector(kube.api.verbs, kube.store, kube.api.catalogue)
        if kube._fresh:
            await kube._begin()
        running = asyncio.create_task(collector.run())
        try:
            await kube.start(port)
            try:
                yield kube
            finally:
                await kube.stop()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            kube.save()

    async def start(self, port: int = 0) -> None:
        """Listen (again), on the port of before when there was one."""
        if self._listening is None:
            listening = AsyncExitStack()
            self.port = await listening.enter_async_context(serving(Server(self.api).app(), port or self.port))
            self._listening = listening

    async def stop(self) -> None:
        """Nobody is answered any more, and every watch ends; what is stored stays. Controllers need no wire."""
        listening, self._listening = self._listening, None
        if listening is not None:
            self.store.hang_up()
            await listening.aclose()

    @property
    def url(self) -> str:
        """Where it is served."""
        return f"http://127.0.0.1:{self.port}"

    def save(self) -> None:
        """Write everything to the directory: whole, or not at all."""
        body = orjson.dumps({"keys": self._keys, **self.store.dump()})
        new = self._file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(body)
        new.replace(self._file)

    def token(self, user: str = "admin") -> str:
        """A bearer token: the administrator's, or one for `system:serviceaccount:<namespace>:<name>`."""
        if user in ("admin", "system:admin"):
            return self._keys["admin"]
        namespace, _, name = user.removeprefix("system:serviceaccount:").partition(":")
        account = self.store.get(("", "serviceaccounts"), namespace, name)
        if account is None:
            raise LookupError(f"no service account {namespace}/{name}")
        audience = ["https://kubernetes.default.svc"]
        now = self._clock.now()
        return self.api.tokens.issue(namespace, name, account["metadata"]["uid"], audience, YEAR, now)

    def kubeconfig(self, path: Path, user: str = "admin") -> Path:
        """Write a kubeconfig for that user; only its owner may read it."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "sandbox",
            "clusters": [{"name": "sandbox", "cluster": {"server": self.url}}],
            "users": [{"name": user, "user": {"token": self.token(user)}}],
            "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user}}],
        }
        path.touch(mode=0o600)
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        return path

    async def _begin(self) -> None:
        for name in NAMESPACES:
            await self._make("/api/v1/namespaces", {"metadata": {"name": name}})
        every = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
        await self._make(f"{RBAC}/clusterroles", {"metadata": {"name": "cluster-admin"}, "rules": [every]})
        masters = {"kind": "Group", "name": "system:masters", "apiGroup": "rbac.authorization.k8s.io"}
        role = {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"}
        binding = {"metadata": {"name": "cluster-admin"}, "roleRef": role, "subjects": [masters]}
        await self._make(f"{RBAC}/clusterrolebindings", binding)
        for definition in bundled():
            await self._make("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)

    async def _make(self, path: str, body: Object) -> None:
        code, answer = await self.local.request("POST", path, body)
        if code != 201:
            raise RuntimeError(f"{path}: {answer}")
