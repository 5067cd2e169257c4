"""The chart as Helm renders it, and the charter that its roles and broker users make: what is shipped is tested."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

from sandbox.charter import API, LIFTER, NODE_AGENT, WORKERS, Charter

Object = dict[str, Any]
Values = Mapping[str, Any]

CHART = Path(__file__).parents[1] / "chart"
RELEASE = "cutover"
NAMESPACE = "catalyst-cutover"
RBAC = frozenset({"Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"})
CALLER = "system:serviceaccount:catalyst-system:catalyst-api"
NEEDED: Values = {"global": {"sovereignFQDN": "sovereign.test"}, "image": {"digest": "sha256:" + "0" * 64}}
"""What has no default, and is not a Secret."""
FRONT_DOOR: Values = {
    "api": {"enabled": True},
    "settings": {"api": {"service_accounts": {"audience": "catalyst-cutover", "may_act": [CALLER]}}},
}
"""The API is there, for one Pod's account and for whoever has a token of the issuer that the box names."""


def merged(base: Values, more: Values) -> dict[str, Any]:
    """Values over values, as Helm lays them."""
    both = dict(base)
    for name, value in more.items():
        old = both.get(name)
        both[name] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return both


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def _chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def render(values: Values | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """Every object of a release. Raises helm_python.HelmValuesError when the schema refuses the values."""
    files = _chart().render(merged(NEEDED, values or {}), name=release, namespace=namespace)
    manifests = [text for name, text in sorted(files.items()) if not name.endswith("NOTES.txt")]
    return [obj for text in manifests for obj in yaml.load_all(text, _LOADER) if obj]


def notes(values: Values | None = None) -> str:
    """What `helm install` says at its end."""
    files = _chart().render(merged(NEEDED, values or {}), name=RELEASE, namespace=NAMESPACE)
    return next(text for name, text in files.items() if name.endswith("NOTES.txt"))


def charter(values: Values | None = None) -> Charter:
    """Who may do what, as the chart grants it."""
    objects = render(values)
    told = merged(_chart().values, values or {})
    settings = told["settings"]
    nodes = settings["sovereign"]["nodes"]["namespace"]
    account = "system:serviceaccount:{}:{}".format
    accounts = {name: account(NAMESPACE, f"cutover-{name}") for name in WORKERS}
    if any(obj["kind"] == "ServiceAccount" and obj["metadata"]["name"] == f"cutover-{API}" for obj in objects):
        accounts[API] = account(NAMESPACE, f"cutover-{API}")
    accounts[NODE_AGENT] = account(nodes, "cutover-node-agent")
    accounts[LIFTER] = account(nodes, settings["sovereign"]["proof"]["lifter_account"])
    users = next(o["data"]["users.conf"] for o in objects if o["metadata"]["name"] == "cutover-nats-users")
    granted = [obj for obj in objects if obj["kind"] in RBAC]
    # On a real Sovereign they are there already: the release depends on who makes them.
    homes = dict.fromkeys([NAMESPACE, *(str(obj["metadata"]["namespace"]) for obj in granted if _housed(obj))])
    made = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in homes]
    namespaces = tuple(settings["sovereign"]["secret_namespaces"])
    return Charter((*made, *granted), users, accounts, namespaces, tuple(told["network"]["outside"]))


def _housed(obj: Object) -> bool:
    return bool(obj["metadata"].get("namespace"))
