"""CustomResourceDefinitions in the store become kinds that are served, and are told that they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sandbox.kube.resources import Catalogue
from sandbox.kube.store import Change, Place, Store

Object = dict[str, Any]
KIND = ("apiextensions.k8s.io", "customresourcedefinitions")


@cache
def bundled() -> tuple[Object, ...]:
    """Our compact definitions of what a Sovereign has installed; the first version listed is the one stored."""
    text = (Path(__file__).parent / "crds.yaml").read_text()
    return tuple(_written_out(short) for short in YAML(typ="safe", pure=True).load(text)["definitions"])


def _written_out(short: Object) -> Object:
    names, stored = short["names"], next(iter(short["versions"]))
    versions = []
    for name, schema in short["versions"].items():
        version: Object = {
            "name": name,
            "served": True,
            "storage": name == stored,
            "schema": {"openAPIV3Schema": schema},
            "additionalPrinterColumns": short.get("columns", []),
        }
        if not short.get("plain"):
            version["subresources"] = {"status": {}}
        if why := short.get("deprecated", {}).get(name):
            version |= {"deprecated": True, "deprecationWarning": why}
        versions.append(version)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{short['group']}"},
        "spec": {
            "group": short["group"],
            "names": {"listKind": f"{names['kind']}List", **names},
            "scope": short.get("scope", "Namespaced"),
            "versions": versions,
        },
    }


class Definitions:
    """Follows the store."""

    def __init__(self, store: Store, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        store.on_change.append(self._heard)

    def read(self) -> None:
        """Serve all that the store holds."""
        for definition in self._store.all(KIND):
            self._catalogue.define(definition)

    def _heard(self, place: Place, change: Change) -> None:
        if place[0] != KIND:
            return
        if change.new is None:
            spec = (change.old or {})["spec"]
            self._store.forget((spec["group"], spec["names"]["plural"]))
            self._catalogue.undefine(spec["group"], spec["names"]["plural"])
            return
        if change.old is None or change.old["spec"] != change.new["spec"]:
            self._catalogue.define(change.new)
            self._store.put(*place, {**change.new, "status": _status(change.new)})


def _status(definition: Object) -> Object:
    made = definition["metadata"]["creationTimestamp"]
    accepted = {"type": "NamesAccepted", "reason": "NoConflicts", "message": "no conflicts found"}
    established = {
        "type": "Established",
        "reason": "InitialNamesAccepted",
        "message": "the initial names have been accepted",
    }
    spec = definition["spec"]
    return {
        "acceptedNames": spec["names"],
        "conditions": [{**c, "status": "True", "lastTransitionTime": made} for c in (accepted, established)],
        "storedVersions": [v["name"] for v in spec["versions"] if v.get("storage")],
    }
