"""What can be done to objects: get, list, create, update, patch, delete, each as a whole, at once."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace
from typing import Any

import orjson

from sandbox.clock import Clock
from sandbox.kube import errors, managed, naming, patches, rules
from sandbox.kube.call import Call, counted, shown
from sandbox.kube.defaults import filled
from sandbox.kube.deletion import NAMESPACES, deleted
from sandbox.kube.listing import listed
from sandbox.kube.managed import Owner
from sandbox.kube.resources import Catalogue, Resource
from sandbox.kube.store import Store

Object = dict[str, Any]

_SYSTEM = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "namespace",
    "name",
    "generateName",
)
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # what Kubernetes makes names of: no vowels


class Verbs:
    """All verbs, over one store."""

    def __init__(self, store: Store, catalogue: Catalogue, clock: Clock) -> None:
        self.store = store
        self.catalogue = catalogue
        self.clock = clock

    def now(self) -> str:
        """The time as objects carry it."""
        return self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def current(self, call: Call) -> Object:
        """The object that the call names; raises 404."""
        r = call.resource
        found = self.store.get(r.key, call.namespace, call.name)
        if found is None:
            raise errors.not_found(r.group, r.plural, call.name)
        return found

    def get(self, call: Call) -> Object:
        """The object."""
        self._deprecated(call)
        return shown(self.current(call), call.resource)

    def _deprecated(self, call: Call) -> None:
        if call.resource.deprecation:
            call.warnings.append(call.resource.deprecation)

    def list(self, call: Call) -> Object:
        """The list, or one page of it."""
        self._deprecated(call)
        return listed(self.store, call)

    def create(self, call: Call) -> Object:
        """Make a new object of the body."""
        r = call.resource
        body = self._checked_body(call)
        metadata = {**body.get("metadata", {})}
        if metadata.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            base = metadata["generateName"][: naming.LONGEST_BASE]
            metadata["name"] = base + "".join(random.choices(_ALPHABET, k=5))
        return shown(self._insert(call, {**body, "metadata": metadata}, call.owner("Update")), r)

    def _insert(self, call: Call, body: Object, owner: Owner, *, owned: bool = False) -> Object:
        """Keep a new object; `owned` when its managedFields are already those of an apply."""
        r = call.resource
        self._home(call)
        metadata = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
        if not owned:
            metadata.pop("managedFields", None)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": self.now()}
        for gone in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
            metadata.pop(gone, None)
        if r.namespaced:
            metadata["namespace"] = call.namespace
        if counted(r):
            metadata["generation"] = 1
        obj = {**body, "apiVersion": r.stored_as, "kind": r.kind, "metadata": metadata}
        if r.has_status:
            obj.pop("status", None)
        obj = self._completed(r, obj)
        if not owned:
            obj = managed.updated(None, obj, r.type, owner, self.now(), split=r.has_status)
        if r.key == NAMESPACES:
            obj = {**obj, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        self._validate(r, obj, None)
        name = metadata["name"]
        if self.store.get(r.key, call.namespace, name) is not None:
            raise errors.already_exists(r.group, r.plural, name)
        return obj if call.dry else self.store.put(r.key, call.namespace, name, obj)

    def _home(self, call: Call) -> None:
        """The namespace must be there, and staying (admission plugin NamespaceLifecycle)."""
        if not call.resource.namespaced:
            return
        namespace = self.store.get(NAMESPACES, "", call.namespace)
        if namespace is None:
            raise errors.not_found("", "namespaces", call.namespace)
        if namespace["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {call.namespace} because it is being terminated"
            refused = errors.forbidden(call.resource.group, call.resource.plural, call.name, why)
            cause = {"reason": "NamespaceTerminating", "message": why, "field": "metadata.namespace"}
            refused.details = {**(refused.details or {}), "causes": [cause]}
            raise refused

    def _checked_body(self, call: Call) -> Object:
        """The body as an object of this kind, unknown fields warned of or refused; raises 400."""
        r, body = call.resource, call.body
        if not isinstance(body, dict):
            raise errors.bad_request(f"the object provided is unrecognized (must be of type {r.kind}): no object")
        version, kind = body.get("apiVersion", r.api_version), body.get("kind", r.kind)
        if (version, kind) != (r.api_version, r.kind):
            said = f'{kind} in version "{version}" cannot be handled as a {r.kind}: no kind "{kind}" is registered'
            raise errors.bad_request(said)
        body = self._decoded(call, {**body, "metadata": body.get("metadata") or {}})
        self._deprecated(call)
        namespace = body["metadata"].get("namespace")
        if r.namespaced and namespace and namespace != call.namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        name = body["metadata"].get("name")
        if call.name and name != call.name:
            if name:
                raise errors.bad_request(
                    f"the name of the object ({name}) does not match the name on the URL ({call.name})"
                )
            body["metadata"] = {**body["metadata"], "name": call.name}
        return body

    def _decoded(self, call: Call, body: Object) -> Object:
        r = call.resource
        cannot = f'{r.kind} in version "{r.version}" cannot be handled as a {r.kind}: '
        unknown: list[str] = []
        try:
            if r.schema is not None:
                body, unknown = r.schema.pruned(body)
                body["metadata"] = rules.decoded(body["metadata"], r.type.fields["metadata"], "metadata", unknown)
            else:
                body = rules.decoded(body, r.type, "", unknown)
                if why := rules.undecodable(r.kind, body):
                    raise TypeError(why)
        except TypeError as error:
            if call.content_type == patches.APPLY:
                raise errors.untyped(call.name, r.api_version, r.kind, str(error)) from error
            raise errors.bad_request(cannot + str(error)) from error
        if call.content_type == patches.APPLY:
            misfit = f".{unknown[0]}: field not declared in schema" if unknown else None
            if misfit := misfit or (r.schema.misfit(body) if r.schema is not None else None):
                raise errors.untyped(call.name, r.api_version, r.kind, misfit)
        how = call.query.get("fieldValidation", "Warn")
        if unknown and how == "Strict":
            told = ", ".join(f'unknown field "{path}"' for path in unknown)
            if call.content_type in (patches.JSON_PATCH, patches.MERGE_PATCH, patches.STRATEGIC):
                said = f"Invalid value: {orjson.dumps(body).decode()!r}: strict decoding error: {told}"
                raise errors.invalid("", "", "", [("patch", said, "FieldValueInvalid")])
            raise errors.bad_request(f"{cannot}strict decoding error: {told}")
        if how != "Ignore":
            call.warnings.extend(f'unknown field "{path}"' for path in unknown)
        return body

    def _completed(self, r: Resource, obj: Object) -> Object:
        if r.schema is None:
            done: Object = rules.tidied(filled(r.group, r.kind, obj), r.type)
            return done
        done = r.schema.defaulted(obj)
        return {**done, "metadata": rules.tidied(done["metadata"], r.type.fields["metadata"])}

    def _validate(self, r: Resource, obj: Object, old: Object | None) -> None:
        faults = naming.metadata_faults(r.group, r.plural, obj["metadata"], old and old["metadata"])
        if r.schema is not None:
            faults += r.schema.faults(obj)
        else:
            faults += rules.faults(r.group, r.kind, obj, old)
        if faults:
            raise errors.invalid(r.group, r.kind, obj["metadata"].get("name", ""), faults)

    def update(self, call: Call) -> Object:
        """Replace the object by the body."""
        self.current(call)
        return shown(
            self._replace(call, self.current(call), self._checked_body(call), call.owner("Update")),
            call.resource,
        )

    def _replace(self, call: Call, old: Object, body: Object, owner: Owner, *, owned: bool = False) -> Object:
        """Keep the body in the place of `old`, unless nothing changes."""
        r = call.resource
        given = body["metadata"]
        self._preconditions(call, old, given)
        obj = self._blended(call, old, body)
        obj = self._completed(r, obj)
        if not owned:
            cleared = given.get("managedFields") in ([], [{}])
            before = managed.write(old, {}) if cleared else old
            obj = managed.updated(before, obj, r.type, owner, self.now(), split=r.has_status)
        if not call.subresource and counted(r) and _substance(r, obj) != _substance(r, old):
            obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        self._validate(r, obj, old)
        obj["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if obj == old or call.dry:
            return obj
        released = obj["metadata"].get("deletionTimestamp") and not obj["metadata"].get("finalizers")
        if released and r.key != NAMESPACES:
            self.store.remove(r.key, call.namespace, call.name, obj)
            return obj
        return self.store.put(r.key, call.namespace, call.name, obj)

    def _preconditions(self, call: Call, old: Object, given: Object) -> None:
        r = call.resource
        if given.get("resourceVersion") and given["resourceVersion"] != old["metadata"]["resourceVersion"]:
            raise errors.conflict(r.group, r.plural, call.name)
        if given.get("uid") and given["uid"] != old["metadata"]["uid"]:
            why = (
                f"Precondition failed: UID in precondition: {given['uid']}, "
                f"UID in object meta: {old['metadata']['uid']}"
            )
            raise errors.conflict(r.group, r.plural, call.name, why)

    def _blended(self, call: Call, old: Object, body: Object) -> Object:
        """What of the body counts on this path: the status subresource writes status, the main one the rest."""
        r = call.resource
        metadata = {**body["metadata"]}
        for key in _SYSTEM:
            metadata.pop(key, None)
            if key in old["metadata"]:
                metadata[key] = old["metadata"][key]
        metadata.pop("resourceVersion", None)
        if "managedFields" in old["metadata"] and "managedFields" not in metadata:
            metadata["managedFields"] = old["metadata"]["managedFields"]
        if call.subresource == "status":
            kept = old["metadata"] if r.custom else {**metadata, "labels": old["metadata"].get("labels")}
            kept = {key: value for key, value in kept.items() if value is not None}
            if "managedFields" in metadata:
                kept["managedFields"] = metadata["managedFields"]
            obj = {**old, "metadata": kept}
            source = body
        else:
            obj = {**body, "metadata": metadata}
            source = old if r.has_status else body
        obj.pop("status", None)
        if "status" in source:
            obj["status"] = source["status"]
        return {**obj, "apiVersion": r.stored_as, "kind": r.kind, "metadata": dict(obj["metadata"])}

    def patch(self, call: Call) -> tuple[Object, bool]:
        """Change the object by the patch; says whether it was created (by an apply)."""
        kind = call.content_type
        if kind == patches.APPLY:
            return self._apply(call)
        known = (patches.JSON_PATCH, patches.MERGE_PATCH, patches.APPLY)
        if call.resource.custom and kind not in known:
            types = ", ".join(known)
            said = f"the body of the request was in an unknown format - accepted media types include: {types}"
            raise errors.ApiError(415, "UnsupportedMediaType", said)
        if kind not in (*known, patches.STRATEGIC):
            raise errors.ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        old = self.current(call)
        done = self._patched(call, shown(old, call.resource))
        inner = replace(call, body=done)
        body = self._checked_body(inner)
        return shown(self._replace(call, old, body, call.owner("Update")), call.resource), False

    def _patched(self, call: Call, obj: Object) -> Object:
        if call.content_type == patches.JSON_PATCH:
            copy: Object = orjson.loads(orjson.dumps(obj))
            return patches.json_patch(copy, call.body)
        if not isinstance(call.body, dict):
            raise errors.bad_request("error decoding patch: the patch is not an object")
        if call.content_type == patches.STRATEGIC:
            merged: Object = patches.strategic(obj, call.body, call.resource.type)
            return merged
        merged = patches.merge_patch(obj, call.body)
        return merged

    def _apply(self, call: Call) -> tuple[Object, bool]:
        r = call.resource
        if not call.query.get("fieldManager"):
            said = "Required value: is required for apply patch"
            raise errors.invalid("meta.k8s.io", "PatchOptions", "", [("fieldManager", said, "FieldValueRequired")])
        config, named = self._configured(call)
        old = self.store.get(r.key, call.namespace, call.name)
        if old is None and call.subresource:
            raise errors.not_found(r.group, r.plural, call.name)
        given = config["metadata"]
        if old is not None:
            self._preconditions(call, old, given)
        if not named and (old is None or _says_of_metadata(old, call.owner("Apply"))):
            why = "was undeterminable: name must be provided"
            raise errors.bad_request(f"the name of the object ({call.name} based on URL) {why}")
        if old is None and (given.get("uid") or given.get("resourceVersion")):
            raise errors.conflict(r.group, r.plural, call.name, "the object does not exist")
        force = call.query.get("force") == "true"
        owner = call.owner("Apply")
        laid = self._configuration(call, config, old)
        split = r.has_status
        result = managed.applied(old, laid, r.type, owner, self.now(), force=force, split=split)
        if old is None:
            return shown(self._insert(call, result, owner, owned=True), r), True
        return shown(self._replace(call, old, result, owner, owned=True), r), False

    def _configured(self, call: Call) -> tuple[Object, bool]:
        """The body of an apply, which says itself what it is; and whether it names itself too. Raises 400, 500."""
        r, body = call.resource, call.body if isinstance(call.body, dict) else {}
        if (body.get("apiVersion"), body.get("kind")) != (r.api_version, r.kind):
            group, _, version = str(body.get("apiVersion") or "").rpartition("/")
            raise errors.bad_request(f"invalid object type: {group}/{version}, Kind={body.get('kind') or ''}")
        named = (body.get("metadata") or {}).get("name")
        config = self._checked_body(call)
        if config["metadata"].get("managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        return config, bool(named)

    def _configuration(self, call: Call, config: Object, old: Object | None) -> Object:
        """Of an applied configuration, what this path may write."""
        r = call.resource
        metadata = {
            k: v for k, v in config["metadata"].items() if k not in ("resourceVersion", "uid", "creationTimestamp")
        }
        if call.subresource == "status":
            status = {"status": config["status"]} if "status" in config else {}
            return {"apiVersion": r.stored_as, "kind": r.kind, "metadata": {"name": call.name}, **status}
        laid = {**config, "apiVersion": r.stored_as, "metadata": metadata}
        if r.has_status:
            laid.pop("status", None)
        return laid

    def delete(self, call: Call) -> Object:
        """Take the object out, or mark it until its finalizers are gone."""
        return deleted(self.store, call, self.current(call), self.now())

    def delete_collection(self, call: Call) -> Object:
        """Delete all that the selectors take; answers with the list of it."""
        asked = replace(call, query={**call.query, "limit": "", "continue": ""})
        found = listed(self.store, asked)
        for item in found["items"]:
            metadata = item["metadata"]
            self.delete(replace(call, name=metadata["name"], namespace=metadata.get("namespace", "")))
        return found


def _says_of_metadata(obj: Object, owner: Owner) -> bool:
    """Whether the manager applied labels or annotations before: without any, its apply would take them all away."""
    entries = obj["metadata"].get("managedFields") or ()
    mine = [e for e in entries if (e["manager"], e["operation"]) == (owner.manager, owner.operation)]
    return any("f:metadata" in e["fieldsV1"] for e in mine)


def _substance(r: Resource, obj: Object) -> Object:
    left_out = ("metadata", "status") if r.has_status else ("metadata",)
    return {key: value for key, value in obj.items() if key not in left_out}
