"""source-controller: GitRepository, HelmRepository, HelmChart, OCIRepository (api-facts 1.2 to 1.4)."""

from __future__ import annotations

import base64
import binascii
from abc import abstractmethod
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from sandbox import charts
from sandbox.controllers.api import (
    GIT_REPOSITORIES,
    HELM_CHARTS,
    HELM_REPOSITORIES,
    OCI_REPOSITORIES,
    PODS,
    SECRETS,
    Object,
)
from sandbox.controllers.conditions import Condition, asks_again, condition, requested, seconds, settle
from sandbox.controllers.gitfetch import Git, GitError, authorization, included, select
from sandbox.controllers.loop import Context, Controller, identity, running_pod, started
from sandbox.controllers.oci import Client, Credentials, PullError, docker_config
from sandbox.controllers.storage import Storage

NAMESPACE, APP = "flux-system", "source-controller"
RETRY = 2.0  # seconds after a failed fetch; the real one backs off from 750 ms
GIT_TIMEOUT = 15.0


class FetchFailed(Exception):
    """A source could not be fetched: the condition's reason, and why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Source(Controller):
    """What all sources share: they live in one Pod, keep artifacts on its disk, and acknowledge requests."""

    name = "source-controller"
    default_interval = 60.0

    def __init__(self, context: Context, storage: Storage, client: Client) -> None:
        super().__init__(context)
        self.storage, self.client = storage, client

    def wants(self, old: Object | None, new: Object) -> bool:
        return asks_again(old, new)

    def extra(self) -> None:
        self.mirrors[PODS].listen(self._pod_changed)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and started(old, new, APP):
            self.enqueue_all()

    async def reconcile(self, obj: Object) -> float | None:
        """Suspended: acknowledge and fetch nothing. Otherwise fetch; a failure keeps the old artifact.

        Source: the deferred summarise in gitrepository_controller.go writes lastHandledReconcileAt for
        suspended and failed objects too; observedGeneration for suspended ones, not for failed ones
        (ComputeReconcileResult), so a forced chart download stays forced until it succeeds.
        """
        pod = running_pod(self.context, NAMESPACE, APP)
        if pod is None:
            return None
        if self.storage.claim(pod["metadata"]["uid"]):
            self.say(f"Pod {pod['metadata']['name']} begins with an empty disk")
        token = requested(obj)
        handled: Object = {"lastHandledReconcileAt": token} if token else {}
        seen: Object = {**handled, "observedGeneration": obj["metadata"].get("generation", 1)}
        if obj["spec"].get("suspend"):
            await self.publish(obj, seen)
            return None
        try:
            status = await self.fetch(obj, pod)
        except FetchFailed as error:
            await self._failed(obj, handled, error)
            return RETRY
        done = [
            condition("Ready", "True", status.pop("reason"), status.pop("message")),
            condition("ArtifactInStorage", "True", "Succeeded", "stored artifact for revision"),
        ]
        await self.publish(obj, {**seen, **status, "conditions": self._settled(obj, done)})
        return seconds(obj["spec"].get("interval"), self.default_interval)

    @abstractmethod
    async def fetch(self, obj: Object, pod: Object) -> dict[str, Any]:
        """Status fields of a successful fetch, `reason` and `message` of Ready among them."""

    async def _failed(self, obj: Object, handled: Object, error: FetchFailed) -> None:
        text = str(error)
        told = [condition("Ready", "False", error.reason, text), condition("FetchFailed", "True", error.reason, text)]
        status: Object = {**handled}
        if self.storage.of(obj) is not None:
            told.append(condition("ArtifactInStorage", "True", "Succeeded", "stored artifact for revision"))
        else:
            status["artifact"] = None
        self.say(f"{self.resource.kind} {obj['metadata']['name']}: {error.reason}: {text}")
        await self.publish(obj, {**status, "conditions": self._settled(obj, told)})

    def _settled(self, obj: Object, conditions: list[Condition]) -> list[Condition]:
        before = (obj.get("status") or {}).get("conditions") or []
        generation = obj["metadata"].get("generation", 1)
        return settle(before, conditions, generation, self.context.clock.now())

    async def secret(self, obj: Object, name: str) -> Object:
        """A Secret in the object's namespace. Raises FetchFailed when it is absent."""
        found = await self.api.get(SECRETS, name, obj["metadata"]["namespace"])
        if found is None:
            raise FetchFailed("AuthenticationFailed", f"failed to get secret '{name}': not found")
        return found

    async def login(self, obj: Object, host: str) -> Credentials | None:
        """Credentials for exactly this host from the object's secretRef.

        Source: KeychainFromSecret, internal/helm/registry/auth.go, fluxcd/source-controller.
        """
        ref = obj["spec"].get("secretRef")
        if not ref:
            return None
        secret = await self.secret(obj, ref["name"])
        if secret.get("type") == "kubernetes.io/dockerconfigjson":
            found = docker_config(secret, host)
            if found is None:
                raise FetchFailed(
                    "AuthenticationFailed",
                    f"no auth config for '{host}' in the docker-registry Secret '{ref['name']}'",
                )
            return found
        data = decoded(secret)
        if "username" not in data or "password" not in data:
            raise FetchFailed("AuthenticationFailed", f"invalid '{ref['name']}' secret data: no username and password")
        return Credentials(data["username"], data["password"])


def decoded(secret: Object) -> dict[str, str]:
    """A Secret's data as text; what is not base64 text is left out."""
    data = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            data[key] = base64.b64decode(value).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
    return data


class GitRepositories(Source):
    """Fetches a branch. The URL is not part of the revision, and an unchanged HEAD changes nothing."""

    resource = GIT_REPOSITORIES

    async def fetch(self, obj: Object, pod: Object) -> dict[str, Any]:
        spec, meta = obj["spec"], obj["metadata"]
        ref, short = select(spec.get("ref") or {})
        git = await self._git(obj, pod)
        try:
            sha = await git.head(ref)
            artifact = (obj.get("status") or {}).get("artifact")
            revision = f"{short}@sha1:{sha}"
            if artifact is None or artifact.get("revision") != revision or self.storage.of(obj) is None:
                cache = self.storage.path("cache", meta["namespace"], meta["name"])
                sha, tar = await git.fetch(cache, ref, included(spec.get("ignore")))
                revision = f"{short}@sha1:{sha}"
                path = self.storage.path("gitrepository", meta["namespace"], meta["name"], sha)
                self.storage.keep_tree(path, tar)
                artifact = self.storage.artifact(path, revision, tar, self.context.clock.now())
                self.say(f"GitRepository {meta['name']}: {revision} from {spec['url']}")
        except GitError as error:
            reason = "AuthenticationFailed" if error.denied else "GitOperationFailed"
            raise FetchFailed(reason, f"failed to checkout and determine revision: {error}") from error
        return {
            "artifact": artifact,
            "reason": "Succeeded",
            "message": f"stored artifact for revision '{revision}'",
        }

    async def _git(self, obj: Object, pod: Object) -> Git:
        spec = obj["spec"]
        url = urlsplit(spec["url"])
        if url.scheme not in {"http", "https"} or not url.netloc:
            raise FetchFailed("URLInvalid", f"failed to parse url '{spec['url']}'")
        header = None
        if ref := spec.get("secretRef"):
            header = authorization(decoded(await self.secret(obj, ref["name"])))
        try:
            base = await self.context.network.url(identity(pod), url.netloc)
        except LookupError as error:
            raise FetchFailed("GitOperationFailed", f"dial tcp: lookup {url.netloc}: no such host") from error
        patience = self.context.network.patience(identity(pod), url.netloc, GIT_TIMEOUT)
        limit = min(seconds(spec.get("timeout"), 60.0), patience)
        return Git(base + url.path, spec["url"], header, limit)

    def gone(self, obj: Object) -> None:
        self.storage.forget("gitrepository", obj["metadata"]["namespace"], obj["metadata"]["name"])


class HelmRepositories(Source):
    """`type: oci` is a static object: its status is emptied once, and nothing ever happens to it again.

    Source: migrationToStatic, helmrepository_controller.go; helmrepository_type_predicate.go.
    """

    resource = HELM_REPOSITORIES
    default_interval = 300.0

    async def reconcile(self, obj: Object) -> float | None:
        if obj["spec"].get("type") == "oci":
            if obj.get("status"):
                emptied = dict.fromkeys(obj["status"])
                await self.api.merge(self.resource, obj, {"status": emptied}, self.name, sub="status")
            return None
        return await super().reconcile(obj)

    async def fetch(self, obj: Object, pod: Object) -> dict[str, Any]:
        url, meta = urlsplit(obj["spec"]["url"]), obj["metadata"]
        login = await self.login(obj, url.netloc)
        headers = {"Authorization": login.header()} if login else {}
        try:
            status, _, body = await self.client.get(
                identity(pod), url.netloc, f"{url.path.rstrip('/')}/index.yaml", headers
            )
        except (LookupError, OSError, TimeoutError) as error:
            raise FetchFailed("Failed", f"failed to fetch Helm repository index: {type(error).__name__}") from error
        if status != 200:
            raise FetchFailed("Failed", f"failed to fetch {obj['spec']['url']}/index.yaml : {status}")
        artifact = (obj.get("status") or {}).get("artifact") or {}
        path = self.storage.path("helmrepository", meta["namespace"], meta["name"], "index.yaml")
        fresh = self.storage.artifact(path, "", body, self.context.clock.now())
        if artifact.get("digest") != fresh["digest"] or self.storage.of(obj) is None:
            self.storage.keep_file(path, body)
            artifact = {**fresh, "revision": fresh["digest"]}
        message = f"stored artifact: revision '{artifact['revision']}'"
        return {"artifact": artifact, "reason": "Succeeded", "message": message}


class HelmCharts(Source):
    """Downloads a chart; a pinned version that is on disk is not asked for again unless the spec changed.

    Source: builder_remote.go, getChartVersion; Force is generation != observedGeneration.
    """

    resource = HELM_CHARTS
    workers = 8

    async def fetch(self, obj: Object, pod: Object) -> dict[str, Any]:
        spec, status = obj["spec"], obj.get("status") or {}
        force = status.get("observedGeneration") != obj["metadata"].get("generation")
        artifact = status.get("artifact")
        if artifact is None or force or self.storage.of(obj) is None:
            artifact = await self._download(obj, pod)
        chart, version = spec["chart"], artifact["revision"]
        return {
            "artifact": artifact,
            "observedChartName": chart,
            "reason": "ChartPullSucceeded",
            "message": f"pulled '{chart}' chart with version '{version}'",
        }

    async def _download(self, obj: Object, pod: Object) -> Object:
        spec, meta = obj["spec"], obj["metadata"]
        repository = await self._repository(obj)
        url = urlsplit(repository["spec"]["url"])
        if url.scheme != "oci":
            raise FetchFailed("SourceUnavailable", f"chart of a {url.scheme} repository is not served here")
        login = await self.login(repository, url.netloc)
        name, version = spec["chart"], spec.get("version", "latest")
        path = f"{url.path.strip('/')}/{name}"
        try:
            fetched = await self.client.pull(identity(pod), url.netloc, path, version.replace("+", "_"), login)
            bundle = charts.unpack(fetched.layers[0])
        except PullError as error:
            reason = "AuthenticationFailed" if error.denied else "ChartPullError"
            raise FetchFailed(reason, f"chart pull error: failed to download chart: {error}") from error
        except (ValueError, IndexError) as error:
            raise FetchFailed("ChartPullError", f"chart pull error: {name}: {error}") from error
        file = self.storage.path("helmchart", meta["namespace"], meta["name"], f"{name}-{bundle.version}.tgz")
        self.storage.keep_file(file, fetched.layers[0])
        return self.storage.artifact(file, bundle.version, fetched.layers[0], self.context.clock.now())

    async def _repository(self, obj: Object) -> Object:
        ref, namespace = obj["spec"]["sourceRef"], obj["metadata"]["namespace"]
        if ref.get("kind") != "HelmRepository":
            raise FetchFailed("SourceUnavailable", f"source kind {ref.get('kind')} is not served here")
        # Read past the mirror: the URL and its secret must be the newest pair.
        found = await self.api.get(HELM_REPOSITORIES, ref["name"], namespace)
        if found is None:
            raise FetchFailed("SourceUnavailable", f"failed to get source: HelmRepository '{ref['name']}' not found")
        return found

    def gone(self, obj: Object) -> None:
        self.storage.forget("helmchart", obj["metadata"]["namespace"], obj["metadata"]["name"])


class OciRepositories(Source):
    """Resolves a tag on every interval, and stores the first layer when the digest is new."""

    resource = OCI_REPOSITORIES

    async def fetch(self, obj: Object, pod: Object) -> dict[str, Any]:
        spec, meta = obj["spec"], obj["metadata"]
        url, ref = urlsplit(spec["url"]), spec.get("ref") or {}
        login = await self.login(obj, url.netloc)
        wanted = ref.get("digest") or ref.get("tag") or ref.get("semver") or "latest"
        try:
            fetched = await self.client.pull(identity(pod), url.netloc, url.path.strip("/"), wanted, login)
        except PullError as error:
            reason = "AuthenticationFailed" if error.denied else "OCIArtifactPullFailed"
            raise FetchFailed(reason, f"failed to pull artifact from '{spec['url']}': {error}") from error
        revision = f"{wanted}@{fetched.digest}" if wanted != fetched.digest else fetched.digest
        artifact = (obj.get("status") or {}).get("artifact") or {}
        if artifact.get("revision") != revision or self.storage.of(obj) is None:
            path = self.storage.path("ocirepository", meta["namespace"], meta["name"], fetched.digest[7:])
            self.storage.keep_file(path, fetched.layers[0])
            artifact = self.storage.artifact(path, revision, fetched.layers[0], self.context.clock.now())
        message = f"stored artifact for digest '{revision}'"
        return {"artifact": artifact, "reason": "Succeeded", "message": message}


def read_chart(path: Path) -> charts.Bundle:
    """The chart behind an artifact. Raises ValueError when it is not one."""
    try:
        return charts.unpack(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"chart artifact unreadable: {type(error).__name__}") from error
