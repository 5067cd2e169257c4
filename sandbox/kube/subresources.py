"""Paths that act on an object without being one: tokens, reviews, scale, eviction, binding, finalize."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sandbox.kube import access, errors, managed, naming, patches, rules
from sandbox.kube.access import ISSUER, Ask, Tokens, User
from sandbox.kube.call import Call
from sandbox.kube.managed import Owner
from sandbox.kube.store import Store
from sandbox.kube.typed import builtin
from sandbox.kube.verbs import Verbs

Object = dict[str, Any]


def _asked(call: Call, api_version: str, kind: str) -> Object:
    body = call.body if isinstance(call.body, dict) else {}
    if body.get("apiVersion", api_version) != api_version or body.get("kind", kind) != kind:
        said = f"the object provided is unrecognized (must be of type {kind})"
        raise errors.bad_request(said)
    unknown: list[str] = []
    try:
        spec = body.get("spec") or {}
        name = {"TokenRequest": "AuthenticationV1TokenRequest"}.get(kind, f"V1{kind}")
        decoded: Object = rules.decoded(spec, builtin(name).fields["spec"], "spec", unknown)
    except TypeError as error:
        raise errors.bad_request(str(error)) from error
    call.warnings.extend(f'unknown field "{path}"' for path in unknown)
    return decoded


def _answered(call: Call, verbs: Verbs, body: Object, type_name: str, subresource: str = "") -> Object:
    manager = call.query.get("fieldManager") or call.agent
    owner = Owner(manager, "Update", body["apiVersion"], subresource)
    return managed.fresh(body, builtin(type_name), owner, verbs.now())


def token_request(call: Call, verbs: Verbs, tokens: Tokens) -> Object:
    """A token for the service account that the call names."""
    account = verbs.current(call)
    spec = _asked(call, "authentication.k8s.io/v1", "TokenRequest")
    seconds = int(spec.get("expirationSeconds") or 3600)
    if seconds < 600:
        fault = naming.wrong("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
        raise errors.invalid("authentication.k8s.io", "TokenRequest", "", [fault])
    metadata = account["metadata"]
    named = {"name": call.name, "namespace": call.namespace, "uid": metadata["uid"]}
    asked: Object = {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {**named, "creationTimestamp": verbs.now()},
        "spec": {**spec, "expirationSeconds": seconds},
    }
    answer = _answered(call, verbs, asked, "AuthenticationV1TokenRequest", "token")
    audiences = list(spec.get("audiences") or [ISSUER])
    now = verbs.clock.now()
    answer["spec"] = {"boundObjectRef": None, **asked["spec"], "audiences": audiences}
    answer["status"] = {
        "token": tokens.issue(call.namespace, call.name, metadata["uid"], audiences, seconds, now),
        "expirationTimestamp": (now + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return answer


def token_review(call: Call, verbs: Verbs, tokens: Tokens) -> Object:
    """Whose token it is, for the audiences that were asked about."""
    spec = _asked(call, "authentication.k8s.io/v1", "TokenReview")
    if not spec.get("token"):
        raise errors.bad_request("token is required for TokenReview in authentication")
    body = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": spec}
    answer = _answered(call, verbs, body, "V1TokenReview")
    audiences = list(spec.get("audiences") or [ISSUER])
    now, token = verbs.clock.now(), spec.get("token") or ""
    for audience in audiences:
        if user := tokens.user(token, now, audience):
            claims = tokens.claims(token, now)
            both = [one for one in audiences if claims is None or one in claims["aud"]]
            answer["status"] = {"authenticated": True, "user": _user_info(user), "audiences": both}
            return answer
    error = "invalid bearer token"
    if claims := tokens.claims(token, now):
        error = f"[{error}, token audiences {claims['aud']} is invalid for the target audiences {audiences}]"
    answer["status"] = {"user": {}, "error": error}
    return answer


def _user_info(user: User) -> Object:
    info: Object = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.credential:
        info["extra"] = {"authentication.kubernetes.io/credential-id": [user.credential]}
    return info


def access_review(call: Call, verbs: Verbs, store: Store) -> Object:
    """Whether the caller (or for a SubjectAccessReview, another) may do something."""
    kind = call.resource.kind
    spec = _asked(call, "authorization.k8s.io/v1", kind)
    user = call.user
    if faults := _review_faults(kind, spec):
        raise errors.invalid("authorization.k8s.io", "", "", faults)
    if kind == "SubjectAccessReview":
        known = access.named(spec.get("user") or "")
        user = User(known.name, (*known.groups, *(spec.get("groups") or ())))
    body = {"kind": kind, "apiVersion": "authorization.k8s.io/v1", "metadata": {}, "spec": spec}
    answer = _answered(call, verbs, body, f"V1{kind}")
    answer["status"] = {"allowed": access.allowed(store, user, _ask(spec))}
    return answer


def _review_faults(kind: str, spec: Object) -> list[naming.Fault]:
    if "resourceAttributes" in spec and "nonResourceAttributes" in spec:
        why = "cannot be specified in combination with resourceAttributes"
        return [naming.wrong("spec.nonResourceAttributes", spec["nonResourceAttributes"], why)]
    if "resourceAttributes" not in spec and "nonResourceAttributes" not in spec:
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        return [naming.wrong("spec.resourceAttributes", None, why)]
    if kind == "SubjectAccessReview" and not (spec.get("user") or spec.get("groups")):
        return [naming.wrong("spec.user", "", "at least one of user or group must be specified")]
    return []


def _ask(spec: Object) -> Ask:
    if about := spec.get("nonResourceAttributes"):
        return Ask(about.get("verb", ""), path=about.get("path", ""))
    about = spec.get("resourceAttributes") or {}
    fields = ("verb", "group", "resource", "subresource", "namespace", "name")
    return Ask(**{field: about.get(field) or "" for field in fields})


def scale(call: Call, verbs: Verbs, method: str) -> Object:
    """Read or set the replicas of a workload."""
    obj = verbs.current(call)
    if method in ("PUT", "PATCH"):
        wanted = call.body if method == "PUT" else patches.merge_patch(_scale_of(obj), call.body)
        replicas = (wanted.get("spec") or {}).get("replicas", 0)
        change = {"spec": {"replicas": replicas}, "metadata": {}}
        if revision := (wanted.get("metadata") or {}).get("resourceVersion"):
            change["metadata"] = {"resourceVersion": revision}
        inner = replace(call, subresource="", body=change, content_type=patches.MERGE_PATCH)
        obj, _ = verbs.patch(inner)
    return _scale_of(obj)


def _scale_of(obj: Object) -> Object:
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": status.get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def evict(call: Call, verbs: Verbs) -> Object:
    """Delete a Pod; disruption budgets are not kept."""
    options = (call.body or {}).get("deleteOptions") if isinstance(call.body, dict) else None
    verbs.delete(replace(call, body=options, subresource=""))
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def bind(call: Call, verbs: Verbs) -> Object:
    """Put a Pod on a node."""
    target = ((call.body or {}).get("target") or {}).get("name")
    old = verbs.current(call)
    if old["spec"].get("nodeName"):
        why = f"pod {call.name} is already assigned to node"
        raise errors.conflict("", "pods/binding", call.name, why)
    bound = {**old, "spec": {**old["spec"], "nodeName": target}}
    verbs.store.put(call.resource.key, call.namespace, call.name, bound)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def finalize(call: Call, verbs: Verbs) -> Object:
    """Set the finalizers of a namespace; with none left a terminating one is gone."""
    old = verbs.current(call)
    finalizers = ((call.body or {}).get("spec") or {}).get("finalizers") or []
    done = {**old, "spec": {**old["spec"], "finalizers": finalizers}}
    if not finalizers and old["metadata"].get("deletionTimestamp") and not old["metadata"].get("finalizers"):
        return verbs.store.remove(call.resource.key, "", call.name, done)
    return verbs.store.put(call.resource.key, "", call.name, done)
