"""Crossplane's package controller, as of 1.18: the core Pod pulls, node mirrors do not matter (api-facts 7)."""

from __future__ import annotations

from typing import Any

from sandbox.controllers.api import CRDS, DEPLOYMENTS, IMAGE_CONFIGS, PODS, PROVIDERS, SECRETS, ApiError, Object
from sandbox.controllers.conditions import asks_again, condition, settle
from sandbox.controllers.loop import Context, Controller, identity, running_pod, started
from sandbox.controllers.oci import Client, Credentials, PullError, docker_config, split_reference

NAMESPACE, APP = "crossplane-system", "crossplane"
RETRY = 2.0  # seconds; the real one backs off from 1 s to 60 s
DEFAULT_REGISTRY = "xpkg.upbound.io"


class Providers(Controller):
    """Pulls a package when `spec.package` is not what was pulled last, or the Pod's cache is empty.

    Source: `currentIdentifier == spec.package` returns early, revisioner.go, crossplane 1.18; the package
    cache is an emptyDir of the core Pod.
    """

    resource = PROVIDERS
    name = "crossplane"

    def __init__(self, context: Context, client: Client) -> None:
        super().__init__(context)
        self.client = client
        self._cached: dict[str, str] = {}

    def wants(self, old: Object | None, new: Object) -> bool:
        return asks_again(old, new)

    def extra(self) -> None:
        self.mirrors[PODS].listen(self._pod_changed)
        self.mirrors[IMAGE_CONFIGS].listen(lambda _old, _new: self.enqueue_all())

    def _resolved(self, package: str) -> str:
        """Where a package really comes from: the ImageConfig with the longest matching prefix that rewrites.

        Source: docs.crossplane.io, image configs, since 1.20. Before, the field is pruned by the API server.
        """
        found: dict[str, str] = {}
        for config in self.mirrors[IMAGE_CONFIGS]:
            rewrite = config["spec"].get("rewriteImage")
            for match in config["spec"]["matchImages"]:
                if rewrite and package.startswith(match["prefix"]):
                    found[match["prefix"]] = rewrite["prefix"]
        if not found:
            return package
        longest = max(found, key=len)
        return found[longest] + package.removeprefix(longest)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and started(old, new, APP):
            self.enqueue_all()

    async def reconcile(self, obj: Object) -> float | None:
        pod = running_pod(self.context, NAMESPACE, APP)
        if pod is None:
            return None
        named, status = obj["spec"]["package"], obj.get("status") or {}
        package = self._resolved(named)
        name, uid = obj["metadata"]["name"], pod["metadata"]["uid"]
        if not self._needs_pull(obj, package, uid):
            return None
        try:
            digest = await self._pull(obj, package, pod)
        except PullError as error:
            text = f"cannot unpack package: failed to fetch package digest from remote: {error}"
            self.say(f"Provider {name}: {text}")
            told = [condition("Installed", "False", "UnpackingPackage", text)]
            await self.publish(obj, {"conditions": self._settled(obj, told)})
            return RETRY
        revision = f"{name}-{digest.removeprefix('sha256:')[:12]}"
        await self._install(obj, package, revision)
        self._cached[name] = f"{uid} {package}"
        told = [
            condition("Installed", "True", "ActivePackageRevision", ""),
            condition("Healthy", "True", "HealthyPackageRevision", ""),
        ]
        done = {"currentIdentifier": package, "currentRevision": revision, "conditions": self._settled(obj, told)}
        # Told since 1.20 only; so here from the first rewriting on.
        if package != named or "resolvedPackage" in status:
            done["resolvedPackage"] = package
        if status.get("currentIdentifier") != package:
            self.say(f"Provider {name}: {package} is {digest}")
        await self.publish(obj, done)
        return None

    def _needs_pull(self, obj: Object, package: str, uid: str) -> bool:
        status = obj.get("status") or {}
        if obj["spec"].get("packagePullPolicy") == "Always" or status.get("currentIdentifier") != package:
            return True
        # After a start of ours the cache that the status speaks of is the same Pod's: nothing to pull.
        cached = self._cached.setdefault(obj["metadata"]["name"], f"{uid} {package}")
        return cached != f"{uid} {package}"

    async def _pull(self, obj: Object, reference: str, pod: Object) -> str:
        if "." not in reference.partition("/")[0]:
            reference = f"{DEFAULT_REGISTRY}/{reference}"
        host, repository, tag = split_reference(reference)
        login = await self._login(obj, host)
        return (await self.client.pull(identity(pod), host, repository, tag, login)).digest

    async def _login(self, obj: Object, host: str) -> Credentials | None:
        for ref in obj["spec"].get("packagePullSecrets") or []:
            secret = await self.api.get(SECRETS, ref["name"], NAMESPACE)
            if secret is not None and (found := docker_config(secret, host)):
                return found
        return None

    async def _install(self, obj: Object, package: str, revision: str) -> None:
        """The runtime Deployment (its image is the package itself) and the provider's own kinds."""
        self.mirrors[DEPLOYMENTS].put(await self.api.apply(DEPLOYMENTS, runtime(obj, revision, package), self.name))
        if obj["metadata"]["name"] == "provider-hcloud":
            try:
                await self.api.apply(CRDS, PROVIDER_CONFIG, self.name)
            except ApiError as error:
                self.say(f"Provider {obj['metadata']['name']}: {error}")

    def _settled(self, obj: Object, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
        before = (obj.get("status") or {}).get("conditions") or []
        return settle(before, told, obj["metadata"].get("generation", 1), self.context.clock.now())


def runtime(obj: Object, revision: str, package: str | None = None) -> Object:
    """The provider's Deployment. Source: runtime_provider.go v1.18: the image is the revision's source."""
    name = obj["metadata"]["name"]
    labels = {"pkg.crossplane.io/provider": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": {**labels, "pkg.crossplane.io/revision": revision}},
                "spec": {
                    "containers": [
                        {
                            "name": "package-runtime",
                            "image": package or obj["spec"]["package"],
                            "imagePullPolicy": "IfNotPresent",
                        }
                    ]
                },
            },
        },
    }


PROVIDER_CONFIG: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "providerconfigs.hcloud.crossplane.io"},
    "spec": {
        "group": "hcloud.crossplane.io",
        "scope": "Cluster",
        "names": {
            "kind": "ProviderConfig",
            "listKind": "ProviderConfigList",
            "plural": "providerconfigs",
            "singular": "providerconfig",
        },
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                "subresources": {"status": {}},
            }
        ],
    },
}
