"""What is wrong with an object: names for all kinds, and the rules of the builtin kinds that we write."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from sandbox.kube.naming import LABEL_SAID, Fault, missing, too_long, wrong
from sandbox.kube.typed import Type

Object = dict[str, Any]
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}\Z")
_DATA_KEY_SAID = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or"
    " 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
MOST_DATA = 1024 * 1024
"""Bytes in a ConfigMap or a Secret."""
PULLS = ("Always", "IfNotPresent", "Never")
IMMUTABLE = "field is immutable"


def _env_faults(env: list[Object], path: str) -> Iterator[Fault]:
    for at, item in enumerate(env):
        if not item.get("name"):
            yield missing(f"{path}[{at}].name")
        source = item.get("valueFrom")
        if source is not None and item.get("value"):
            yield wrong(f"{path}[{at}].valueFrom", "", "may not be specified when `value` is not empty")
        elif source is not None and len(source) != 1:
            why = "may not have more than one field specified at a time" if source else "must specify one of"
            yield wrong(f"{path}[{at}].valueFrom", "", why)


def _pod_spec_faults(spec: Object, path: str, restarts: tuple[str, ...]) -> Iterator[Fault]:
    containers = spec.get("containers") or []
    if not containers:
        yield missing(f"{path}.containers")
    names: set[str] = set()
    for field in ("initContainers", "containers"):
        for at, item in enumerate(spec.get(field) or ()):
            here = f"{path}.{field}[{at}]"
            if not item.get("name"):
                yield missing(f"{here}.name")
            elif item["name"] in names:
                yield (f"{here}.name", f'Duplicate value: "{item["name"]}"', "FieldValueDuplicate")
            elif not _LABEL.match(item["name"]):
                yield wrong(f"{here}.name", item["name"], LABEL_SAID)
            names.add(item.get("name", ""))
            if not item.get("image"):
                yield missing(f"{here}.image")
            elif item["image"] != item["image"].strip():
                yield wrong(f"{here}.image", item["image"], "must not have leading or trailing whitespace")
            if item.get("imagePullPolicy") not in (None, *PULLS):
                shown = ", ".join(f'"{name}"' for name in PULLS)
                said = f'Unsupported value: "{item["imagePullPolicy"]}": supported values: {shown}'
                yield (f"{here}.imagePullPolicy", said, "FieldValueNotSupported")
            yield from _env_faults(item.get("env") or [], f"{here}.env")
            yield from _mount_faults(item, spec, here)
    if spec.get("restartPolicy") not in restarts:
        shown = ", ".join(f'"{name}"' for name in restarts)
        said = f'Unsupported value: "{spec.get("restartPolicy")}": supported values: {shown}'
        yield (f"{path}.restartPolicy", said, "FieldValueNotSupported")


def _mount_faults(container: Object, spec: Object, path: str) -> Iterator[Fault]:
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
    for at, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            yield (f"{path}.volumeMounts[{at}].name", f'Not found: "{mount.get("name")}"', "FieldValueNotFound")


def selects(selector: Object, labels: Object) -> bool:
    """Whether a LabelSelector matches."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or ():
        have, values = labels.get(term["key"]), term.get("values") or ()
        held = {
            "In": have in values,
            "NotIn": have not in values,
            "Exists": term["key"] in labels,
            "DoesNotExist": term["key"] not in labels,
        }
        if not held.get(term["operator"], False):
            return False
    return True


def _workload(obj: Object, old: Object | None) -> Iterator[Fault]:
    spec = obj.get("spec") or {}
    selector = spec.get("selector")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not selector:
        yield missing("spec.selector")
    elif not selects(selector, labels):
        yield wrong("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    claims = [{"name": claim["metadata"].get("name")} for claim in spec.get("volumeClaimTemplates") or ()]
    pod = template.get("spec") or {}
    if claims:
        pod = {**pod, "volumes": [*(pod.get("volumes") or ()), *claims]}
    yield from _pod_spec_faults(pod, "spec.template.spec", ("Always",))
    if int(spec.get("replicas") or 0) < 0:
        yield wrong("spec.replicas", spec["replicas"], "must be greater than or equal to 0")
    if old is not None and old["spec"].get("selector") != selector:
        yield wrong("spec.selector", selector, IMMUTABLE)


def _job(obj: Object, old: Object | None) -> Iterator[Fault]:
    spec = obj.get("spec") or {}
    template = spec.get("template") or {}
    yield from _pod_spec_faults(template.get("spec") or {}, "spec.template.spec", ("OnFailure", "Never"))
    if old is not None:
        for field in ("template", "selector", "completions"):
            if old["spec"].get(field) != spec.get(field):
                yield wrong(f"spec.{field}", spec.get(field), IMMUTABLE)


def _cron_job(obj: Object, old: Object | None) -> Iterator[Fault]:
    spec = obj.get("spec") or {}
    if not spec.get("schedule"):
        yield missing("spec.schedule")
    template = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template") or {}
    path = "spec.jobTemplate.spec.template.spec"
    yield from _pod_spec_faults(template.get("spec") or {}, path, ("OnFailure", "Never"))


def _pod(obj: Object, old: Object | None) -> Iterator[Fault]:
    spec = obj.get("spec") or {}
    yield from _pod_spec_faults(spec, "spec", ("Always", "OnFailure", "Never"))
    if old is None:
        return
    before, after = (json.loads(orjson.dumps(s)) for s in (old["spec"], spec))
    for one in (before, after):
        for container in (one.get("containers") or []) + (one.get("initContainers") or []):
            container.pop("image", None)
        for field in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"):
            one.pop(field, None)
    if not before.get("nodeName"):
        after.pop("nodeName", None)
    if before != after:
        yield ("spec", "Forbidden: pod updates may not change fields other than image", "FieldValueForbidden")


def _decoded(value: object) -> bytes | None:
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        return None


_LOGINS = {"kubernetes.io/dockerconfigjson": ".dockerconfigjson", "kubernetes.io/dockercfg": ".dockercfg"}


def _secret(obj: Object, old: Object | None) -> Iterator[Fault]:
    data = obj.get("data") or {}
    yield from _keys(data, "data")
    if sum(len(_decoded(value) or b"") for value in data.values()) > MOST_DATA:
        yield too_long("data", MOST_DATA)
    if key := _LOGINS.get(obj.get("type", "")):
        path = f"data[{key}]"
        if key not in data:
            yield missing(path)
        else:
            try:
                json.loads(_decoded(data[key]) or b"")
            except ValueError as error:
                yield wrong(path, "<secret contents redacted>", type(error).__name__)
    if old is not None:
        if old.get("type") != obj.get("type"):
            yield wrong("type", obj.get("type"), IMMUTABLE)
        yield from _kept(obj, old, ("data",))


def _config_map(obj: Object, old: Object | None) -> Iterator[Fault]:
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    yield from _keys(data, "data")
    for key in data.keys() & binary.keys():
        yield wrong(f"data[{key}]", key, "duplicate of key present in binaryData")
    yield from _keys(binary, "binaryData")
    size = sum(len(value.encode()) for value in data.values()) + sum(len(_decoded(v) or b"") for v in binary.values())
    if size > MOST_DATA:
        yield too_long("[]", MOST_DATA)
    if old is not None:
        yield from _kept(obj, old, ("data", "binaryData"))


def _kept(obj: Object, old: Object, fields: tuple[str, ...]) -> Iterator[Fault]:
    """What is marked immutable stays, and stays marked."""
    if not old.get("immutable"):
        return
    forbidden = "Forbidden: field is immutable when `immutable` is set"
    if not obj.get("immutable"):
        yield ("immutable", forbidden, "FieldValueForbidden")
    yield from ((f, forbidden, "FieldValueForbidden") for f in fields if (old.get(f) or {}) != (obj.get(f) or {}))


def _keys(data: Object, field: str) -> Iterator[Fault]:
    for key in data:
        if not _DATA_KEY.match(key):
            yield wrong(f"{field}[{key}]", key, _DATA_KEY_SAID)


def _binding(obj: Object, old: Object | None) -> Iterator[Fault]:
    if not (obj.get("roleRef") or {}).get("name"):
        yield missing("roleRef.name")
    if old is not None and old.get("roleRef") != obj.get("roleRef"):
        yield wrong("roleRef", obj.get("roleRef"), "cannot change roleRef")


def _role(obj: Object, old: Object | None) -> Iterator[Fault]:
    for at, rule in enumerate(obj.get("rules") or ()):
        if not rule.get("verbs"):
            yield missing(f"rules[{at}].verbs", "verbs must contain at least one value")


def _network_policy(obj: Object, old: Object | None) -> Iterator[Fault]:
    spec = obj.get("spec") or {}
    for direction, side in (("egress", "to"), ("ingress", "from")):
        for n, rule in enumerate(spec.get(direction) or ()):
            for m, peer in enumerate(rule.get(side) or ()):
                here = f"spec.{direction}[{n}].{side}[{m}]"
                if not peer:
                    yield missing(here, "must specify a peer")
                elif (block := peer.get("ipBlock")) is not None:
                    yield from _block_faults(block, f"{here}.ipBlock")


def _block_faults(block: Object, path: str) -> Iterator[Fault]:
    cidr = block.get("cidr") or ""
    if not cidr:
        yield missing(f"{path}.cidr")
        return
    try:
        network = ipaddress.ip_network(cidr if "/" in cidr else "", strict=False)
    except ValueError:
        yield wrong(f"{path}.cidr", cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
        return
    if ipaddress.ip_interface(cidr).ip != network.network_address:
        yield wrong(f"{path}.cidr", cidr, "must not have bits set beyond the prefix length")
    for at, one in enumerate(block.get("except") or ()):
        inner = ipaddress.ip_network(one, strict=False)
        if inner.version != network.version or inner == network or not inner.subnet_of(network):  # type: ignore[arg-type]
            yield wrong(f"{path}.except[{at}]", one, "must be a strict subset of `cidr`")


def _service(obj: Object, old: Object | None) -> Iterator[Fault]:
    spec = obj.get("spec") or {}
    if spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None" and not spec.get("ports"):
        yield missing("spec.ports")


_RULES: dict[tuple[str, str], Callable[[Object, Object | None], Iterator[Fault]]] = {
    ("", "ConfigMap"): _config_map,
    ("", "Pod"): _pod,
    ("", "Secret"): _secret,
    ("", "Service"): _service,
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    ("rbac.authorization.k8s.io", "Role"): _role,
    ("rbac.authorization.k8s.io", "ClusterRole"): _role,
    ("apps", "Deployment"): _workload,
    ("apps", "DaemonSet"): _workload,
    ("apps", "StatefulSet"): _workload,
    ("apps", "ReplicaSet"): _workload,
    ("batch", "Job"): _job,
    ("batch", "CronJob"): _cron_job,
    ("rbac.authorization.k8s.io", "RoleBinding"): _binding,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): _binding,
}


def faults(group: str, kind: str, obj: Object, old: Object | None) -> list[Fault]:
    """What is wrong with a builtin object that is to replace `old`."""
    rule = _RULES.get((group, kind))
    return list(rule(obj, old)) if rule else []


# Quantities are published as strings, and may be written as numbers.
_QUANTITIES = frozenset(
    ("limits", "requests", "capacity", "allocatable", "overhead", "sizeLimit", "divisor", "min", "max", "hard", "used")
)


def _mistyped(value: Any, kind: Type, path: str) -> bool:
    match kind.scalar:
        case "integer":
            return not isinstance(value, int) or isinstance(value, bool)
        case "boolean":
            return not isinstance(value, bool)
        case "string":
            is_text = isinstance(value, str)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return not is_text and not (is_number and _QUANTITIES.intersection(path.split(".")))
    return isinstance(value, (dict, list))


def _cannot(value: object, path: str, kind: str) -> TypeError:
    return TypeError(f"json: cannot unmarshal {type(value).__name__} into Go struct field {path} of type {kind}")


def undecodable(kind: str, obj: Object) -> str | None:
    """Why a builtin object's bytes cannot be read: base64 is decoded before anything is validated."""
    for field in ("data",) if kind == "Secret" else ("binaryData",) if kind == "ConfigMap" else ():
        for value in (obj.get(field) or {}).values():
            if value is not None and _decoded(value) is None:
                bad = next(
                    (at for at, c in enumerate(str(value)) if not (c.isascii() and (c.isalnum() or c in "+/="))), 0
                )
                return f"illegal base64 data at input byte {bad}"
    return None


def decoded(value: Any, kind: Type, path: str, unknown: list[str]) -> Any:
    """A builtin value without unknown fields and nulls, as decoding into a Go struct leaves it.

    Raises TypeError with the path of a value of the wrong type.
    """
    if kind.kind == "any" or value is None:
        return value
    if kind.kind == "scalar":
        if _mistyped(value, kind, path):
            raise _cannot(value, path, kind.scalar)
        return value
    if kind.kind == "list":
        if not isinstance(value, list):
            raise _cannot(value, path, "list")
        return [decoded(item, kind.item(), f"{path}[{at}]", unknown) for at, item in enumerate(value)]
    if not isinstance(value, dict):
        raise _cannot(value, path, "object")
    out = {}
    for key, item in value.items():
        below = f"{path}.{key}" if path else key
        if kind.kind == "struct" and key not in kind.fields and not kind.open:
            unknown.append(below)
        elif item is not None or kind.kind == "map":
            out[key] = decoded(item, kind.child(key), below, unknown)
    return out


def tidied(value: Any, kind: Type) -> Any:
    """A builtin value without empty lists and maps, which Go leaves out (`omitempty`); empty structs stay."""
    if isinstance(value, list):
        return [tidied(item, kind.item()) for item in value]
    if not isinstance(value, dict) or kind.kind == "any":
        return value
    out = {}
    for key, item in value.items():
        below = kind.child(key)
        if not item and below.kind in ("list", "map") and kind.kind == "struct" and key not in kind.always:
            continue
        out[key] = tidied(item, below) if item else item
    return out
