"""Schemas of custom resources, closed as an API server with `fieldValidation=Strict` closes them.

From the definitions beside the checkout where they are; of kinds that are not, the fields that we may use are
written down here, as their projects publish them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Object = dict[str, Any]
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "crds"


def definitions(folder: Path) -> dict[tuple[str, str], Object]:
    """(apiVersion, kind) -> closed JSON Schema, of every CustomResourceDefinition in a folder."""
    found = {}
    for file in sorted(folder.iterdir()):
        for crd in yaml.safe_load_all(file.read_text()) if file.suffix == ".yaml" else [json.loads(file.read_text())]:
            spec = (crd or {}).get("spec") or {}
            for version in spec.get("versions") or ():
                name = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                found[name] = whole(version["schema"]["openAPIV3Schema"])
    return found


def whole(schema: Object) -> Object:
    """A structural schema with the metadata that every object has, closed."""
    properties = {**schema.get("properties", {}), "apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    made = closed({**schema, "properties": properties})
    made["properties"]["metadata"] = {"type": "object"}
    return made


def closed(schema: Object) -> Object:
    """No other fields than those that are named, unless the definition keeps unknown ones."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {name: closed(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    if isinstance(schema.get("items"), dict):
        made["items"] = closed(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = closed(schema["additionalProperties"])
    return made


def complaints(obj: Object, schema: Object) -> list[str]:
    """What the schema has against the object, each with its path."""
    errors = jsonschema.Draft202012Validator(schema).iter_errors(obj)
    return sorted(f"{'/'.join(map(str, each.path))}: {each.message}"[:300] for each in errors)


def thing(required: tuple[str, ...] = (), /, **properties: Object) -> Object:
    return {"type": "object", "properties": properties, "required": list(required)}


def text(pattern: str = "") -> Object:
    return {"type": "string", **({"pattern": pattern} if pattern else {})}


def many(item: Object, **more: Any) -> Object:
    return {"type": "array", "items": item, **more}


PORT: Object = {"type": "integer", "minimum": 1, "maximum": 65535}
WORDS: Object = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"  # GEP-2257
PROMETHEUS = r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"
HOSTNAME = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_REF = {"group": text(), "kind": text(), "name": text(), "namespace": text(), "port": PORT}

HTTP_ROUTE = whole(
    thing(
        ("spec",),
        spec=thing(
            parentRefs=many(thing(("name",), **_REF, sectionName=text()), maxItems=32),
            hostnames=many(text(HOSTNAME), maxItems=16),
            rules=many(
                thing(
                    backendRefs=many(thing(("name", "port"), **_REF, weight={"type": "integer"}), maxItems=16),
                    timeouts=thing(request=text(DURATION), backendRequest=text(DURATION)),
                ),
                minItems=1,
                maxItems=16,
            ),
        ),
    )
)
"""gateway.networking.k8s.io/v1, standard channel; `port` is required of a reference to a Service."""

SERVICE_MONITOR = whole(
    thing(
        ("spec",),
        spec=thing(
            ("endpoints", "selector"),
            selector=thing(matchLabels=WORDS),
            endpoints=many(thing(port=text(), path=text(), interval=text(PROMETHEUS)), minItems=1),
        ),
    )
)
"""monitoring.coreos.com/v1"""

PROMETHEUS_RULE = whole(
    thing(
        ("spec",),
        spec=thing(
            groups=many(
                thing(
                    ("name",),
                    name=text(".+"),
                    rules=many(
                        thing(
                            ("expr",),
                            alert=text(), expr=text(), labels=WORDS, annotations=WORDS, **{"for": text(PROMETHEUS)},
                        )
                    ),
                )
            )
        ),
    )
)  # fmt: skip
"""monitoring.coreos.com/v1"""

BLUEPRINT = whole(
    thing(
        ("spec",),
        spec=thing(
            ("version", "card"),
            version=text(r"^[0-9]+\.[0-9]+\.[0-9]+(-[a-z0-9.-]+)?$"),
            card=thing(("title",), title=text(".+"), summary=text()),
            visibility={"enum": ["listed", "unlisted", "private"]},
            depends=many(thing(("blueprint",), blueprint=text(r"^(bp-)?[a-z][a-z0-9-]{1,62}$"), version=text())),
            manifests=thing(source=thing(kind={"enum": ["HelmChart", "Kustomize", "OAM"]}, ref=text())),
        ),
    )
)
"""catalyst.openova.io/v1alpha1 and v1, as openova's own definition of it says."""

WRITTEN: dict[tuple[str, str], Object] = {
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HTTP_ROUTE,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): SERVICE_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PROMETHEUS_RULE,
    ("catalyst.openova.io/v1alpha1", "Blueprint"): BLUEPRINT,
}
