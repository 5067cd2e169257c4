"""One API server on the wire: connection, patience, and which kinds are served in which version.

The client that it stands on has no time limits, no retries, loops wrongly on an expired watch, and picks its own
content type and field manager (measured in 36.1.0). So every call goes through `_call`, which says all of that aloud.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import anyio
import orjson
from aiohttp import ClientConnectorCertificateError, ClientError, ClientResponse, ClientTimeout

from workers.adapters.cluster_answers import Absent, Unavailable, pause, trouble
from workers.adapters.cluster_kinds import Kind, Object
from workers.adapters.kubernetes_client import ApiClient, Configuration, config
from workers.errors import Stuck, Wait

TRIES = 5  # of one request, or of a watch that delivers nothing
CONNECT, READ = 5.0, 30.0  # seconds


class Wire:
    """One API server, with our name on every request."""

    def __init__(self, api: ApiClient, field_manager: str) -> None:
        self._api = api
        self._manager = field_manager
        self._versions: dict[str, str] = {}
        api.user_agent = field_manager

    @classmethod
    @asynccontextmanager
    async def open(cls, *, kubeconfig: Path | None, field_manager: str) -> AsyncIterator[Self]:
        """A connection for as long as the block lasts. No kubeconfig: the Pod's own service account."""
        settings = Configuration()
        try:
            if kubeconfig is None:
                config.load_incluster_config(  # type: ignore[no-untyped-call]
                    client_configuration=settings
                )
            else:
                await config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            whence = "the Pod's service account" if kubeconfig is None else str(kubeconfig)
            raise Stuck("KubeconfigUnusable", f"{whence}: {error}") from error
        api = ApiClient(settings)
        try:
            yield cls(api, field_manager)
        finally:
            await api.close()

    # --- what is served ---------------------------------------------------------------------------------

    async def served(self, kind: Kind) -> bool:
        """False when the API has no such kind (its CRD is not installed). Trouble is raised, never False."""
        return await self._version(kind) is not None

    async def _version(self, kind: Kind) -> str | None:
        """The most wanted version that is served. Only a found one is remembered: a CRD may come later."""
        if kind.resource in self._versions:
            return self._versions[kind.resource]
        elsewhere = False
        offered = await self._offered(kind.group)
        for version in [*kind.versions, *(v for v in offered if v not in kind.versions)]:
            if version not in offered or kind.plural not in await self._resources(kind.group, version):
                continue
            if version in kind.versions:
                self._versions[kind.resource] = version
                return version
            elsewhere = True
        if elsewhere:
            message = f"{kind.resource} is served, but in none of the versions {', '.join(kind.versions)}"
            raise Stuck("ApiVersionUnknown", message)
        return None

    async def _offered(self, group: str) -> tuple[str, ...]:
        if not group:
            return ("v1",)
        try:
            found = await self._call("GET", f"/apis/{group}", "discover", f"API group {group}")
        except Absent:
            return ()
        return tuple(v["version"] for v in found.get("versions", []))

    async def _resources(self, group: str, version: str) -> frozenset[str]:
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            found = await self._call("GET", path, "discover", f"API group {group or 'core'}/{version}")
        except Absent:
            return frozenset()
        return frozenset(r["name"] for r in found.get("resources", []))

    async def _path(self, kind: Kind, namespace: str | None, name: str | None = None) -> str:
        version = await self._version(kind)
        if version is None:
            raise Stuck("KindNotServed", f"the API server has no {kind.resource}: its CRD is not installed")
        parts = ["", "apis", kind.group, version] if kind.group else ["", "api", version]
        if kind.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        elif kind.namespaced and name is not None:
            raise ValueError(f"{kind.kind} {name} needs a namespace")
        parts.append(kind.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        return "/".join(parts)

    async def _complete(self, kind: Kind, obj: Object) -> Object:
        """The object with apiVersion and kind: items of lists come without, and SSA refuses that."""
        version = await self._version(kind)
        api_version = f"{kind.group}/{version}" if kind.group else str(version)
        return {**obj, "apiVersion": api_version, "kind": kind.kind}

    # --- the wire ---------------------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        path: str,
        verb: str,
        words: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """One request, tried again while the server is only busy or away. Trouble comes as our own words."""
        limits = ClientTimeout(connect=CONNECT, sock_connect=CONNECT, sock_read=READ)
        last: Exception | None = None
        for attempt in range(1, TRIES + 1):
            after = None
            try:
                response = await self._send(method, path, query or {}, body, content_type, limits)
                async with response:
                    raw = await response.read()
                if response.status < 300:
                    return orjson.loads(raw)
                raise trouble(verb, words, response, raw)
            except Unavailable as error:
                last, after = error, error.after
            except (ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
                message = f"{verb} {words}: the API server's certificate is not trusted; check the CA"
                raise Stuck("ApiCertificateInvalid", message) from error
            except (ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as error:
                last = error
            if attempt < TRIES:
                await anyio.sleep(pause(attempt, after))
        what = str(last) if isinstance(last, Unavailable) else type(last).__name__
        raise Wait("ApiServerUnavailable", f"{verb} {words}: {what}, {TRIES} times") from last

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        content_type: str,
        limits: ClientTimeout,
    ) -> ClientResponse:
        response: ClientResponse = await self._api.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=limits,
        )
        return response
