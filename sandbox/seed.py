"""What stands on a Sovereign before Git has its say: what cloud-init applied once (field-lessons E1, E2, E6).

Nothing of this is in Git, so nobody puts it back when it is changed; and it is applied only when the Sovereign
is made, never when it is opened again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sandbox.catalogue import API_IMAGE, FQDN, GITOPS_UPSTREAM, MOTHERSHIP
from sandbox.controllers.api import Api
from sandbox.controllers.discovery import Discovery
from sandbox.controllers.oci import Credentials

Object = dict[str, Any]

MANAGER = "cloud-init"
FLUX_IMAGES = (
    "ghcr.io/fluxcd/source-controller:v1.4.1",
    "ghcr.io/fluxcd/kustomize-controller:v1.4.0",
    "ghcr.io/fluxcd/helm-controller:v1.1.0",
)
PAUSE = "docker.io/rancher/mirrored-pause:3.6"
SYSTEM = (
    ("coredns", "kube-system", "docker.io/rancher/mirrored-coredns-coredns:1.12.0"),
    ("local-path-provisioner", "kube-system", "docker.io/rancher/local-path-provisioner:v0.0.30"),
    ("gitea-postgres", "gitea", "docker.io/library/postgres:16.6"),
    ("harbor-registry", "harbor", "docker.io/goharbor/registry-photon:v2.14.3"),
)
"""Workloads without a slot of their own: name, namespace, image."""
NAMESPACES = ("flux-system", "crossplane-system", "gitea", "harbor")
IGNORE = "/*\n!/clusters/_template\n!/platform\n!/products\n"


def images() -> tuple[str, ...]:
    """Images that the seed runs beyond the catalogue's."""
    return (*FLUX_IMAGES, PAUSE, API_IMAGE)


def objects(pull: Mapping[str, Credentials], interval: float, branch: str = "main", fqdn: str = FQDN) -> list[Object]:
    """Every object, in the order in which it is applied. `pull`: registry host -> who may pull there."""
    return [
        *(_namespace(name) for name in NAMESPACES),
        pull_secret("ghcr-pull", "flux-system", pull),
        _opaque("hcloud-credentials", "crossplane-system", {"token": "none-in-a-sandbox"}),
        allow_egress(),
        *(deployment(_short(image), "flux-system", image) for image in FLUX_IMAGES),
        *(deployment(*each) for each in SYSTEM),
        git_repository(interval, branch),
        kustomization("bootstrap-kit", "./clusters/_template/bootstrap-kit", interval, fqdn=fqdn),
        kustomization(
            "infrastructure-config", "./clusters/_template/infrastructure", interval, fqdn=fqdn, after="bootstrap-kit"
        ),
    ]


async def apply(api: Api, wanted: Iterable[Object]) -> None:
    """Apply all of it, once."""
    discovery = Discovery(api)
    for obj in wanted:
        await api.apply(await discovery.resource(obj["apiVersion"], obj["kind"]), obj, MANAGER)


def pull_secret(name: str, namespace: str, pull: Mapping[str, Credentials]) -> Object:
    """A kubernetes.io/dockerconfigjson Secret, an entry a host."""
    auths = {host: _auth(login) for host, login in pull.items()}
    raw = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": raw},
    }


def allow_egress() -> Object:
    """Flux ships it (flux2, manifests/policies): its Pods may go anywhere, whatever another NetworkPolicy says."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "allow-egress", "namespace": "flux-system"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
    }


def deployment(name: str, namespace: str, image: str) -> Object:
    """One replica of one image."""
    labels = {"app": name}
    container = {"name": name, "image": image, "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def git_repository(interval: float, branch: str) -> Object:
    """`flux-system/openova` as cloud-init writes it: upstream, without credentials."""
    return {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "GitRepository",
        "metadata": {"name": "openova", "namespace": "flux-system"},
        "spec": {
            "interval": _duration(interval),
            "timeout": "10s",
            "url": GITOPS_UPSTREAM,
            "ref": {"branch": branch},
            "ignore": IGNORE,
        },
    }


def kustomization(
    name: str, path: str, interval: float, source: str = "openova", *, fqdn: str = FQDN, after: str | None = None
) -> Object:
    """A Flux Kustomization that applies a path of a GitRepository, with the Sovereign's name put in."""
    spec: Object = {
        "interval": _duration(interval),
        "timeout": "1m",
        "path": path,
        "prune": True,
        "wait": True,
        "sourceRef": {"kind": "GitRepository", "name": source},
        "postBuild": {"substitute": {"SOVEREIGN_FQDN": fqdn}},
    }
    if after:
        spec["dependsOn"] = [{"name": after}]
    return {
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": name, "namespace": "flux-system"},
        "spec": spec,
    }


def _namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _opaque(name: str, namespace: str, data: Mapping[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "Opaque",
        "data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()},
    }


def _auth(login: Credentials) -> dict[str, str]:
    pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    return {"username": login.username, "password": login.password, "auth": pair}


def _short(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[0]


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


PULL_HOSTS = ("ghcr.io", MOTHERSHIP)
"""What ghcr-pull opens."""
