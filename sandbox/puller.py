"""How containerd 1.7 on a k3s node pulls an image: `hosts.toml` read on each pull, fallback and all.

pkg/cri/sbserver/image_pull.go and remotes/docker/config/hosts.go, v1.7.23: the root entry always comes last
and is the original registry when `server` is missing; a file that does not parse, or has no `[host]` table,
is only logged, and the pull goes upstream.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from sandbox.controllers.oci import Credentials
from sandbox.network import Identity, Network, canonical

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "*/*;q=0.1",
    )
)
PARAMETER = re.compile(r'(\w+)="([^"]*)"')
EVERYTHING = ("pull", "resolve", "push")
DROPPED = 1.0
"""Seconds that the sandbox waits where its packets are dropped; containerd dials for 30 s."""


class PullError(Exception):
    """The pull failed, in containerd's words."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image reference, normalised as containerd does."""

    host: str
    repository: str
    reference: str
    """Tag, or digest when one is given (it wins over a tag)."""

    @classmethod
    def parse(cls, text: str) -> Image:
        """`postgres:16` is `docker.io/library/postgres:16`; no tag means `latest`."""
        name, at, digest = text.partition("@")
        head, slash, rest = name.partition("/")
        if not slash or not ("." in head or ":" in head or head == "localhost"):
            head, rest = "docker.io", name if slash else f"library/{name}"
        repository, colon, tag = rest.rpartition(":")
        if not colon:
            repository, tag = rest, "latest"
        return cls(head, repository, digest if at else tag)

    def __str__(self) -> str:
        separator = "@" if self.reference.startswith("sha256:") else ":"
        return f"{self.host}/{self.repository}{separator}{self.reference}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that a pull is tried at."""

    base: str
    """URL up to and including `/v2` or what overrides it."""
    capabilities: tuple[str, ...] = EVERYTHING
    rewrite: tuple[tuple[str, str], ...] = ()

    def repository(self, name: str) -> str:
        """The repository's name there; `rewrite` exists in k3s's containerd only, first match wins."""
        for pattern, replacement in self.rewrite:
            if re.search(pattern, name):
                return re.sub(pattern, re.sub(r"\$(\d)", r"\\\1", replacement), name)
        return name


def default_endpoint(host: str) -> Endpoint:
    """Where an image comes from when nothing is configured."""
    return Endpoint(f"https://{'registry-1.docker.io' if host == 'docker.io' else host}/v2")


def directories(host: str) -> tuple[str, ...]:
    """Names that are looked for below certs.d, in this order; the first that exists wins."""
    name, colon, port = host.partition(":")
    return (*((f"{name}_{port}_",) if colon else ()), host, "_default")


def endpoints(certs: Path, host: str, log: Callable[[str], None]) -> list[Endpoint]:
    """Where containerd tries, in order. Never raises: what cannot be read means upstream."""
    folder = next((certs / d for d in directories(host) if (certs / d).is_dir()), None)
    file = folder / "hosts.toml" if folder else None
    if file is None or not file.exists():
        return [default_endpoint(host)]
    try:
        return parse_hosts(file.read_text(encoding="utf-8"), host)
    except (tomllib.TOMLDecodeError, ValueError, TypeError, AttributeError) as error:
        log(f'level=error msg="decoding hosts.toml failed" error="{error}" host={host}')
        return [default_endpoint(host)]


def parse_hosts(text: str, host: str) -> list[Endpoint]:
    """The file's hosts in file order, then the root entry. Raises ValueError without a host table."""
    root = tomllib.loads(text)
    tables = root.get("host")
    if not isinstance(tables, dict) or not tables:
        raise ValueError("invalid `host` tree")
    server = root.get("server") or default_endpoint(host).base
    return [*(_endpoint(url, table) for url, table in tables.items()), _endpoint(server, root)]


def _endpoint(url: str, table: Mapping[str, Any]) -> Endpoint:
    base = (url if "://" in url else f"https://{url}").rstrip("/")
    if not table.get("override_path") and not base.endswith("/v2"):
        base += "/v2"
    capabilities = tuple(table.get("capabilities") or EVERYTHING)
    return Endpoint(base, capabilities, tuple((table.get("rewrite") or {}).items()))


@dataclass(frozen=True, slots=True)
class Pulled:
    """An image that is on the node now."""

    digest: str
    """Digest of what the tag named: the index, when there is one."""
    blobs: tuple[str, ...]
    via: str
    """Base URL that resolved it."""


class Puller:
    """Pulls for nodes, each over its own routes. Close it."""

    def __init__(self, network: Network, log: Callable[[str], None], platform: str = "linux/amd64") -> None:
        self._network, self._log = network, log
        self._os, self._arch = platform.split("/")[:2]
        self._session: aiohttp.ClientSession | None = None
        self.falls_back = False
        """A build that tries the original registry last, whatever `hosts.toml` says."""

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def pull(
        self, node: str, certs: Path, name: str, have: Iterable[str], login: Credentials | None = None
    ) -> Pulled:
        """Resolve and fetch what is not on the node yet, every byte hashed. Raises PullError.

        `login` is shown to whatever host is asked: CRI passes a pull secret on to mirrors too (k3s#8026).
        """
        image = Image.parse(name)
        if self._session is None:
            self._session = aiohttp.ClientSession()
        places = endpoints(certs, image.host, self._log)
        if self.falls_back:
            places.append(default_endpoint(image.host))
        visit = _Visit(self._session, self._network, Identity("node", node), image, places, login)
        try:
            digest, via = await visit.resolve()
        except PullError as error:
            raise PullError(
                f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {error}'
            ) from error
        try:
            blobs = await self._fetch(visit, digest, frozenset(have))
        except PullError as error:
            raise PullError(f'failed to pull and unpack image "{image}": {error}') from error
        return Pulled(digest, blobs, via)

    async def _fetch(self, visit: _Visit, digest: str, have: frozenset[str]) -> tuple[str, ...]:
        manifest = json.loads(await visit.content("manifests", digest))
        got = [digest]
        if "manifests" in manifest:
            child = self._child(manifest["manifests"])
            manifest = json.loads(await visit.content("manifests", child))
            got.append(child)
        for part in (manifest["config"], *manifest["layers"]):
            if part["digest"] not in have and part["digest"] not in got:
                await visit.content("blobs", part["digest"])
            got.append(part["digest"])
        return tuple(dict.fromkeys(got))

    def _child(self, descriptors: Iterable[Mapping[str, Any]]) -> str:
        for each in descriptors:
            platform = each.get("platform") or {}
            if (platform.get("os"), platform.get("architecture")) == (self._os, self._arch):
                return str(each["digest"])
        raise PullError(f"no match for platform in manifest: {self._os}/{self._arch}: not found")


class _Visit:
    """One pull over its endpoints, with the tokens it was given."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        network: Network,
        who: Identity,
        image: Image,
        places: list[Endpoint],
        login: Credentials | None,
    ) -> None:
        self._session, self._network, self._who = session, network, who
        self._image, self._places, self._login = image, places, login
        self._tokens: dict[str, str] = {}

    async def resolve(self) -> tuple[str, str]:
        """Digest of the reference and the base that knew it; digests are asked for too."""
        trouble: str | None = None
        for place in self._places:
            if "resolve" not in place.capabilities:
                continue
            try:
                status, headers, _ = await self._request("HEAD", place, "manifests", self._image.reference)
                digest = headers.get("Docker-Content-Digest", "")
                if status == 200 and not digest:
                    _, _, body = await self._request("GET", place, "manifests", self._image.reference)
                    digest = _sha256(body)
            except PullError as error:
                trouble = trouble or str(error)
                continue
            if status == 200:
                return digest, place.base
            if status != 404:
                trouble = trouble or f"unexpected status from HEAD request to {place.base}: {status}"
        raise PullError(trouble or f"{self._image}: not found")

    async def content(self, kind: str, digest: str) -> bytes:
        """A manifest or blob by digest, from the first place that has it."""
        trouble: str | None = None
        for place in self._places:
            if "pull" not in place.capabilities:
                continue
            try:
                status, _, body = await self._request("GET", place, kind, digest)
            except PullError as error:
                trouble = trouble or str(error)
                continue
            if status == 200:
                if _sha256(body) != digest:
                    raise PullError(f"failed commit on ref: unexpected commit digest, expected {digest}")
                return body
            if status != 404:
                trouble = trouble or f"unexpected status code {place.base}/{kind}: {status}"
        raise PullError(trouble or f"content at {digest} not found")

    async def _request(
        self, method: str, place: Endpoint, kind: str, reference: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        url = f"{place.base}/{place.repository(self._image.repository)}/{kind}/{reference}"
        if canonical(urlsplit(place.base).netloc) != canonical(self._image.host):
            url += f"?ns={self._image.host}"
        status, headers, body = await self._send(method, url, self._tokens.get(place.base))
        if status == 401 and place.base not in self._tokens:
            self._tokens[place.base] = await self._authorize(headers.get("WWW-Authenticate", ""))
            status, headers, body = await self._send(method, url, self._tokens[place.base])
        if status in {301, 302, 303, 307, 308} and "Location" in headers:
            # Credentials are not carried to where a redirect leads.
            status, headers, body = await self._send(method, headers["Location"], None)
        return status, headers, body

    async def _authorize(self, challenge: str) -> str:
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() != "bearer":
            return self._login.header() if self._login else ""
        asked = dict(PARAMETER.findall(rest))
        query = f"service={asked.get('service', '')}&scope={asked.get('scope', '')}"
        login = self._login.header() if self._login else None
        status, _, body = await self._send("GET", f"{asked.get('realm', '')}?{query}", login)
        if status != 200:
            raise PullError(
                f"failed to authorize: failed to fetch {'oauth' if login else 'anonymous'} token: "
                f"unexpected status from GET request to {asked.get('realm')}: {status}"
            )
        answer = json.loads(body)
        return f"Bearer {answer.get('token') or answer.get('access_token')}"

    async def _send(self, method: str, url: str, authorization: str | None) -> tuple[int, Mapping[str, str], bytes]:
        parts = urlsplit(url)
        base = await self._wire(parts.netloc)
        headers = {"Accept": ACCEPT, "Host": parts.netloc}
        if authorization:
            headers["Authorization"] = authorization
        target = base + parts.path + (f"?{parts.query}" if parts.query else "")
        silence = self._network.patience(self._who, canonical(parts.netloc), DROPPED)
        limit = aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence)
        try:
            asked = self._session.request(method, target, headers=headers, allow_redirects=False, timeout=limit)
            async with asked as answer:
                return answer.status, answer.headers, await answer.read()
        except TimeoutError as error:
            raise PullError(f'failed to do request: {method} "{_plain(url)}": i/o timeout') from error
        except (aiohttp.ClientError, OSError) as error:
            raise PullError(f'failed to do request: {method} "{_plain(url)}": {type(error).__name__}') from error

    async def _wire(self, netloc: str) -> str:
        try:
            return await self._network.url(self._who, canonical(netloc))
        except LookupError as error:
            raise PullError(f"dial tcp: lookup {netloc}: no such host") from error


def _plain(url: str) -> str:
    """Without the query: messages are for people."""
    return url.partition("?")[0]


def _sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()
