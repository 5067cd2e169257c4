"""How a Pod pulls from a registry: over its own route, with the bearer-token dance of the distribution spec.

Every request goes to the host's route, whatever host a challenge or redirect names: nothing leaves loopback.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from sandbox.network import Identity, Network

TIMEOUT = 8.0  # seconds until a dropped packet is given up
INDEX = "application/vnd.oci.image.index.v1+json"
ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        INDEX,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class PullError(Exception):
    """A pull failed; `denied` when the registry refused these credentials."""

    def __init__(self, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied


@dataclass(frozen=True)
class Credentials:
    """A user and a password; never printed."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.username!r})"

    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Fetched:
    """A manifest and, for what has one platform, its blobs."""

    digest: str
    manifest: Mapping[str, Any]
    layers: tuple[bytes, ...]


def docker_config(secret: Mapping[str, Any], host: str) -> Credentials | None:
    """The entry for exactly this host in a kubernetes.io/dockerconfigjson Secret, or None."""
    raw = (secret.get("data") or {}).get(".dockerconfigjson", "")
    try:
        entry = json.loads(base64.b64decode(raw))["auths"].get(host)
        if entry is None:
            return None
        if "username" in entry:
            return Credentials(entry["username"], entry.get("password", ""))
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
    except (ValueError, KeyError, TypeError, binascii.Error):
        return None
    return Credentials(user, password)


def split_reference(reference: str) -> tuple[str, str, str]:
    """`host/repository:tag` or `host/repository@digest` -> host, repository, tag or digest."""
    host, _, rest = reference.partition("/")
    if "@" in rest:
        repository, _, digest = rest.partition("@")
        return host, repository.partition(":")[0], digest
    repository, colon, tag = rest.rpartition(":")
    return (host, repository, tag) if colon else (host, rest, "latest")


class Client:
    """Pulls on behalf of Pods. One session; close it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def pull(
        self, who: Identity, host: str, repository: str, reference: str, login: Credentials | None = None
    ) -> Fetched:
        """Manifest and blobs, hashed. An index is followed to its first image. Raises PullError."""
        visit = _Visit(self, who, host, repository, login)
        try:
            body, digest = await visit.manifest(reference)
            manifest = json.loads(body)
            if "manifests" in manifest:
                body, _ = await visit.manifest(manifest["manifests"][0]["digest"])
                leaf = json.loads(body)
            else:
                leaf = manifest
            wanted = [leaf["config"]["digest"], *(layer["digest"] for layer in leaf["layers"])]
            blobs = [await visit.blob(each) for each in wanted]
        except LookupError as error:
            raise PullError(f"dial tcp: lookup {host}: no such host") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PullError(f"{host}/{repository}: {type(error).__name__}: i/o timeout or reset") from error
        except (ValueError, TypeError) as error:
            raise PullError(f"{host}/{repository}:{reference}: manifest invalid") from error
        return Fetched(digest, manifest, tuple(blobs[1:]))

    async def get(self, who: Identity, host: str, path: str, headers: Mapping[str, str]) -> tuple[int, Any, bytes]:
        """One GET over the route of `who` to `host`."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        base = await self._network.url(who, host)
        limit = aiohttp.ClientTimeout(total=self._network.patience(who, host, TIMEOUT))
        request = self._session.get(base + path, headers=dict(headers), allow_redirects=False, timeout=limit)
        async with request as answer:
            return answer.status, answer.headers, await answer.read()


class _Visit:
    """One pull: remembers the token that it was given."""

    def __init__(self, client: Client, who: Identity, host: str, repository: str, login: Credentials | None) -> None:
        self._client, self._who, self._host = client, who, host
        self._repository, self._login = repository, login
        self._authorization: str | None = None

    async def manifest(self, reference: str) -> tuple[bytes, str]:
        body = await self._get(f"/v2/{self._repository}/manifests/{reference}", {"Accept": ACCEPT})
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        if reference.startswith("sha256:") and reference != digest:
            raise PullError(f"{self._host}/{self._repository}: manifest does not match {reference}")
        return body, digest

    async def blob(self, digest: str) -> bytes:
        body = await self._get(f"/v2/{self._repository}/blobs/{digest}", {})
        if digest != "sha256:" + hashlib.sha256(body).hexdigest():
            raise PullError(f"{self._host}/{self._repository}: blob does not match {digest}")
        return body

    async def _get(self, path: str, headers: Mapping[str, str]) -> bytes:
        status, answer, body = await self._send(path, headers)
        if status == 401 and self._authorization is None:
            self._authorization = await self._authorize(answer.get("WWW-Authenticate", ""))
            status, answer, body = await self._send(path, headers)
        if status in {301, 302, 303, 307, 308}:
            target = urlsplit(answer.get("Location", ""))
            onward = target.path + (f"?{target.query}" if target.query else "")
            status, answer, body = await self._client.get(self._who, target.netloc or self._host, onward, {})
        if status in {401, 403}:
            raise PullError(f"GET {self._host}{path}: {status}: denied", denied=True)
        if status != 200:
            raise PullError(f"GET {self._host}{path}: response status code {status}")
        return body

    async def _send(self, path: str, headers: Mapping[str, str]) -> tuple[int, Any, bytes]:
        sent = {**headers, "Host": self._host}
        if self._authorization:
            sent["Authorization"] = self._authorization
        return await self._client.get(self._who, self._host, path, sent)

    async def _authorize(self, challenge: str) -> str | None:
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            return self._login.header() if self._login else None
        asked = dict(_PARAMETER.findall(rest))
        realm = urlsplit(asked.get("realm", ""))
        path = f"{realm.path}?service={asked.get('service', '')}&scope={asked.get('scope', '')}"
        headers = {"Authorization": self._login.header()} if self._login else {}
        status, _, body = await self._client.get(self._who, self._host, path, {**headers, "Host": self._host})
        if status != 200:
            raise PullError(f"GET {self._host}{realm.path}: {status}: denied", denied=status in {401, 403})
        answer = json.loads(body)
        return f"Bearer {answer.get('token') or answer.get('access_token')}"
