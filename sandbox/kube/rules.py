"""What is wrong with an object: names for all kinds, and the rules of the builtin kinds that we write."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from sandbox.kube.typed import Type

Object = dict[str, Any]
Fault = tuple[str, str, str]  # field, message, reason of the cause

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}\Z")
_SUBDOMAIN_SAID = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start"
    " and end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    r" '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_SAID = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end"
    " with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
IMMUTABLE = "field is immutable"


def wrong(field: str, value: object, why: str) -> Fault:
    """An invalid value."""
    return (field, f"Invalid value: {orjson.dumps(value).decode()}: {why}", "FieldValueInvalid")


def missing(field: str, why: str = "") -> Fault:
    """A required value."""
    return (field, f"Required value: {why}" if why else "Required value", "FieldValueRequired")


def metadata_faults(group: str, plural: str, metadata: Object) -> list[Fault]:
    """Rules for the metadata of every kind."""
    faults: list[Fault] = []
    name = metadata.get("name") or ""
    if not name:
        faults.append(missing("metadata.name", "name or generateName is required"))
    elif group == "rbac.authorization.k8s.io":
        if name in (".", "..") or "/" in name or "%" in name:
            faults.append(wrong("metadata.name", name, "may not contain '/' or '%'"))
    elif (group, plural) in (("", "namespaces"), ("", "services")):
        if not _LABEL.match(name) or len(name) > 63:
            faults.append(wrong("metadata.name", name, _LABEL_SAID))
    elif not _SUBDOMAIN.match(name) or len(name) > 253:
        faults.append(wrong("metadata.name", name, _SUBDOMAIN_SAID))
    for key, value in (metadata.get("labels") or {}).items():
        if not _QUALIFIED.match(key):
            faults.append(wrong("metadata.labels", key, "name part must consist of alphanumeric characters"))
        if not _LABEL_VALUE.match(value):
            faults.append(wrong("metadata.labels", value, "a valid label must be an empty string or a word"))
    for key in metadata.get("annotations") or {}:
        if not _QUALIFIED.match(key.lower()):
            faults.append(wrong("metadata.annotations", key, "name part must consist of alphanumeric characters"))
    return faults


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
            names.add(item.get("name", ""))
            if not item.get("image"):
                yield missing(f"{here}.image")
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


def _secret(obj: Object, old: Object | None) -> Iterator[Fault]:
    data = obj.get("data") or {}
    yield from _keys(data)
    if obj.get("type") == "kubernetes.io/dockerconfigjson":
        path = "data[.dockerconfigjson]"
        if ".dockerconfigjson" not in data:
            yield missing(path)
        else:
            try:
                json.loads(_decoded(data[".dockerconfigjson"]) or b"")
            except ValueError as error:
                yield wrong(path, "<secret contents redacted>", type(error).__name__)
    if old is not None:
        if old.get("type") != obj.get("type"):
            yield wrong("type", obj.get("type"), IMMUTABLE)
        if old.get("immutable") and (data != (old.get("data") or {}) or not obj.get("immutable")):
            yield ("data", "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")


def _config_map(obj: Object, old: Object | None) -> Iterator[Fault]:
    yield from _keys(obj.get("data") or {})
    if old is not None and old.get("immutable"):
        same = all((old.get(f) or {}) == (obj.get(f) or {}) for f in ("data", "binaryData"))
        if not same or not obj.get("immutable"):
            yield ("data", "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")


def _keys(data: Object) -> Iterator[Fault]:
    for key in data:
        if not _DATA_KEY.match(key):
            yield wrong(
                f"data[{key}]", key, "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
            )


def _binding(obj: Object, old: Object | None) -> Iterator[Fault]:
    if not (obj.get("roleRef") or {}).get("name"):
        yield missing("roleRef.name")
    if old is not None and old.get("roleRef") != obj.get("roleRef"):
        yield wrong("roleRef", obj.get("roleRef"), "cannot change roleRef")


def _service(obj: Object, old: Object | None) -> Iterator[Fault]:
    spec = obj.get("spec") or {}
    if spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None" and not spec.get("ports"):
        yield missing("spec.ports")


_RULES: dict[tuple[str, str], Callable[[Object, Object | None], Iterator[Fault]]] = {
    ("", "ConfigMap"): _config_map,
    ("", "Pod"): _pod,
    ("", "Secret"): _secret,
    ("", "Service"): _service,
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
