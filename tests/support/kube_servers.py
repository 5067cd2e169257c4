"""Real API servers for the contract: the one that KUBECONFIG names, and one of our own from KUBEBUILDER_ASSETS.

The second is what controller-runtime's envtest starts: `kube-apiserver` and `etcd` on loopback, no controllers.
Both get the definitions of Flux, Crossplane and Cilium where these are missing, and are left as they were found.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.broker import free_port
from sandbox.kube.definitions import bundled

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
SHARED = Path(__file__).parents[2] / "../shared/data/crds"
SETS = ("flux-2.4", "crossplane-1.18", "cilium")
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OURS = "contract.catalyst-cutover/installed"
USERS = "users.contract.catalyst-cutover"

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
    kubeconfig: Path
    forget: Callable[[], Any] | None = None
    """Make the server forget its history, as etcd's compaction does; None where that is not ours to do."""

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
        yield Kube(http, cluster["server"].rstrip("/"), tls, bare, kubeconfig)


# --- a server of our own ---------------------------------------------------------------------------------


@dataclass
class Started:
    """A kube-apiserver and its etcd, started here."""

    directory: Path
    etcd: int
    kubeconfig: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    async def forget(self) -> None:
        """Compact etcd up to now: what was before is 410."""
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.etcd}") as http:
            async with http.post("/v3/kv/range", json={"key": base64.b64encode(b"\0").decode()}) as answer:
                revision = (await answer.json())["header"]["revision"]
            async with http.post("/v3/kv/compaction", json={"revision": revision, "physical": True}) as answer:
                assert answer.status == 200, await answer.text()


@contextmanager
def started(assets: Path, directory: Path) -> Iterator[Started]:
    """The binaries of a directory, as envtest starts them. Raises what the server said when it does not come up."""
    api, store, peer = _free_ports(3)
    token = secrets.token_urlsafe(24)
    signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key = directory / "sa.key"
    key.touch(mode=0o600)
    private = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    key.write_bytes(signing.private_bytes(*private))
    (directory / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    etcd, server = f"http://127.0.0.1:{store}", Started(directory, store, directory / "kubeconfig")
    issuer = "https://kubernetes.default.svc"
    commands = {
        "etcd": [f"--data-dir={directory}/etcd", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
                 f"--listen-peer-urls=http://127.0.0.1:{peer}", "--unsafe-no-fsync"],
        "kube-apiserver": [
            f"--etcd-servers={etcd}", f"--secure-port={api}", "--bind-address=127.0.0.1",
            f"--cert-dir={directory}/certs", f"--service-account-issuer={issuer}",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            f"--token-auth-file={directory}/tokens.csv", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24", "--allow-privileged=true", f"--api-audiences={issuer}",
        ],
    }  # fmt: skip
    try:
        for name, arguments in commands.items():
            with (directory / f"{name}.log").open("wb") as log:
                server.processes.append(
                    subprocess.Popen([str(assets / name), *arguments], stdout=log, stderr=log, cwd=directory)
                )
        _wait_until_ready(server, f"https://127.0.0.1:{api}", token)
        yield server
    finally:
        # Not asked politely: it would wait for watches to end, for as long as its etcd stays away.
        for process in reversed(server.processes):
            process.kill()
            process.wait(30)


def _wait_until_ready(server: Started, url: str, token: str) -> None:
    certificate = server.directory / "certs" / "apiserver.crt"
    document = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": str(certificate)}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    server.kubeconfig.touch(mode=0o600)
    server.kubeconfig.write_text(json.dumps(document))
    deadline = time.monotonic() + 60

    async def ready() -> bool:
        async with connected(server.kubeconfig, server.directory) as kube:
            return (await kube.ask("GET", "/readyz")).status == 200

    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, aiohttp.ClientError, ssl.SSLError):
            if certificate.exists() and asyncio.run(ready()):
                return
        if any(process.poll() is not None for process in server.processes):
            break
        time.sleep(0.2)
    logs = "\n".join(log.read_text()[-1500:] for log in sorted(server.directory.glob("*.log")))
    raise RuntimeError(f"the API server did not come up:\n{logs}")


def _free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


# --- definitions -----------------------------------------------------------------------------------------


def definitions() -> list[Object]:
    """The vendors' own definitions where they lie beside this checkout, else the sandbox's."""
    files = sorted(file for name in SETS for file in (SHARED / name).glob("*.*"))
    found = [yaml.safe_load(file.read_text()) for file in files]
    have = {one["metadata"]["name"] for one in found}
    more = (json.loads(json.dumps(one)) for one in bundled() if one["metadata"]["name"] not in have)
    return [*found, *more]


@contextmanager
def provided(kubeconfig: Path, directory: Path, *, leave: bool = False) -> Iterator[None]:
    """Every definition is served inside; those that were missing go again when the last test process leaves.

    `leave` them, when the server itself goes.
    """
    me = f"{USERS}/{secrets.token_hex(4)}"
    asyncio.run(_install(kubeconfig, directory, me))
    try:
        yield
    finally:
        if not leave:
            asyncio.run(_uninstall(kubeconfig, directory, me))


async def _install(kubeconfig: Path, directory: Path, me: str) -> None:
    async with connected(kubeconfig, directory) as kube:
        for document in definitions():
            name = document["metadata"]["name"]
            annotations = document["metadata"].get("annotations") or {}
            fresh = {"name": name, "annotations": {**annotations, OURS: "true", me: "here"}}
            made = await kube.ask("POST", DEFINITIONS, {**document, "metadata": fresh})
            if made.status == 409:
                had = (await kube.ask("GET", f"{DEFINITIONS}/{name}")).body
                if OURS in (had["metadata"].get("annotations") or {}):
                    await kube.merge(f"{DEFINITIONS}/{name}", {"metadata": {"annotations": {me: "here"}}})
            else:
                assert made.status == 201, made.body
        async with asyncio.timeout(60):
            for document in definitions():
                while not await _served(kube, document):
                    await asyncio.sleep(0.2)


async def _served(kube: Kube, document: Object) -> bool:
    spec = document["spec"]
    version = next(v["name"] for v in spec["versions"] if v["served"])
    return (await kube.ask("GET", f"/apis/{spec['group']}/{version}/{spec['names']['plural']}")).status == 200


async def _uninstall(kubeconfig: Path, directory: Path, me: str) -> None:
    async with connected(kubeconfig, directory) as kube:
        for document in definitions():
            path = f"{DEFINITIONS}/{document['metadata']['name']}"
            left = await kube.merge(path, {"metadata": {"annotations": {me: None}}})
            annotations = left.body.get("metadata", {}).get("annotations") or {}
            if OURS in annotations and not any(key.startswith(USERS) for key in annotations):
                precondition = {"preconditions": {"resourceVersion": left.body["metadata"]["resourceVersion"]}}
                await kube.ask("DELETE", path, precondition)


def named_servers() -> list[str]:
    """The sandbox always; a real server where the environment names one."""
    named = (("real", "KUBECONFIG"), ("assets", "KUBEBUILDER_ASSETS"))
    return ["sandbox", *(name for name, variable in named if os.environ.get(variable))]
