"""Values that people install the chart with, each by a name that says for whom."""

from __future__ import annotations

from typing import Any

from sandbox.blueprint import NEEDED, merged

Values = dict[str, Any]
DIGEST = "sha256:" + "0" * 64
API: Values = {
    "api": {"enabled": True},
    "settings": {"api": {"identity": {"issuer": "https://keycloak.sovereign.test/realms/sovereign"}}},
}
SEVERAL: Values = {
    "api": {"replicas": 3},
    "settings": {"api": {"ticket_key_secret": {"name": "tickets", "key": "key"}}},
}
EMBEDDED: Values = {"broker": {"embedded": {"enabled": True, "image": {"digest": DIGEST}}}}
INGRESS = {"enabled": True, "className": "nginx", "tlsSecretName": "cutover-tls", "annotations": {"a": "b"}}
ROUTE = {"enabled": True, "parentRefs": [{"name": "cilium-gateway", "namespace": "kube-system"}]}
UPSTREAM = {"username": "bot", "password_secret": {"name": "cutover-ghcr", "key": "password"}}


def _over(*parts: Values) -> Values:
    whole: Values = {}
    for part in parts:
        whole = merged(whole, part)
    return whole


MATRIX: dict[str, Values] = {
    "as-it-comes": {},
    "with-a-broker-of-its-own": _over(EMBEDDED, {"broker": {"login": "nkey"}}),
    "credentials-of-an-operator": {"broker": {"login": "creds"}},
    "api-behind-an-ingress": _over(API, {"api": {"ingress": INGRESS}}),
    "api-behind-a-gateway": _over(
        API, SEVERAL, EMBEDDED, {"api": {"httpRoute": ROUTE}, "network": {"apiFrom": ["kube-system"]}}
    ),
    "cilium": _over(API, {"network": {"policies": "cilium", "localCIDRs": ["203.0.113.7/32"]}}),
    "monitored": _over(
        API,
        {
            "monitoring": {
                "serviceMonitor": {"enabled": "always", "labels": {"release": "prom"}},
                "rules": {"enabled": "always", "labels": {"release": "prom"}},
                "dashboard": {"enabled": True},
            }
        },
    ),
    "every-means-and-namespace": {
        "rbac": {
            "means": ["CiliumClusterwideNetworkPolicy", "ClusterNetworkPolicy", "NetworkPolicy"],
            "canaryNamespaces": ["flux-system", "harbor"],
            "fluxNamespaces": ["flux-system", "tenants"],
        },
        "settings": {"sovereign": {"secret_namespaces": ["flux-system", "crossplane-system", "tenants"]}},
    },
    "with-logins-upstream": {
        "settings": {
            "sovereign": {
                "mothership_login": UPSTREAM,
                "upstream_git": {"login": UPSTREAM},
                "upstreams": [{"host": "ghcr.io", "project": "proxy-ghcr", "login": UPSTREAM}],
            }
        }
    },
    "auto-fire": {
        "settings": {"auto_fire": {"enabled": True}, "handover": {"namespace": "openbao", "name": "handover-seal"}}
    },
    "scheduled-with-care": {
        "image": {"pullSecrets": ["pull"]},
        "nodeSelector": {"role": "system"},
        "tolerations": [{"key": "x", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
        "prefix": "loose",
    },
}


def full(values: Values) -> Values:
    """With what has no default."""
    return merged(NEEDED, values)
