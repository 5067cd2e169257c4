"""Deletion: at once, or marked until finalizers are gone. A Pod goes at once too: kubelets here need no grace."""

from __future__ import annotations

from typing import Any

from sandbox.kube import errors
from sandbox.kube.call import Call, counted, shown
from sandbox.kube.store import Store

Object = dict[str, Any]
NAMESPACES = ("", "namespaces")
MEANS = {"uid": "deleted and then recreated", "resourceVersion": "modified"}
WAITS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


def deleted(store: Store, call: Call, old: Object, now: str) -> Object:
    """Take the object out, or mark it until its finalizers are gone; answers with it, or with success."""
    r = call.resource
    options = {**call.query, **(call.body if isinstance(call.body, dict) else {})}
    _preconditions(call, old, options.get("preconditions") or {})
    dry = call.dry or "All" in (options.get("dryRun") or ())
    uid = old["metadata"]["uid"]
    finalizers = list(old["metadata"].get("finalizers") or ())
    waits = WAITS.get(options.get("propagationPolicy", ""))
    if waits and waits not in finalizers and store.dependents(uid):
        finalizers.append(waits)
    if finalizers or r.key == NAMESPACES:
        marked = _marked(call, old, finalizers, now)
        if not dry and marked != old:
            marked = store.put(r.key, call.namespace, call.name, marked)
        return shown(marked, r)
    gone = old if dry else store.remove(r.key, call.namespace, call.name)
    if r.key == ("", "pods"):
        return shown(gone, r)
    details = {"name": call.name, "kind": r.plural, "uid": uid} | ({"group": r.group} if r.group else {})
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _marked(call: Call, old: Object, finalizers: list[str], now: str) -> Object:
    metadata = {**old["metadata"]}
    is_namespace = call.resource.key == NAMESPACES
    if "deletionTimestamp" not in metadata:
        metadata["deletionTimestamp"] = now
        if not is_namespace:
            metadata["deletionGracePeriodSeconds"] = 0
        if counted(call.resource):
            metadata["generation"] = metadata.get("generation", 0) + 1
    if finalizers:
        metadata["finalizers"] = finalizers
    marked = {**old, "metadata": metadata}
    if is_namespace:
        marked["status"] = {**old.get("status", {}), "phase": "Terminating"}
    return marked


def _preconditions(call: Call, old: Object, wanted: Object) -> None:
    r, metadata = call.resource, old["metadata"]
    for field_name, said in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if wanted.get(field_name) and wanted[field_name] != metadata[field_name]:
            why = (
                f"the {said} in the precondition ({wanted[field_name]}) does not match the {said} in record "
                f"({metadata[field_name]}). The object might have been {MEANS[field_name]}"
            )
            # Here the API server names the kind, where elsewhere it names the resource.
            raise errors.conflict(r.group, r.kind, call.name, why)
