"""`values.schema.json` of the chart: what the settings may say is made of the models that read them.

`python -m workers.entrypoints.values_schema` writes it; `--check` says whether it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson

from workers.entrypoints.settings import Settings

Schema = dict[str, Any]
CHART = Path(__file__).parents[2] / "chart"
PLACE = CHART / "values.schema.json"
GIVEN = {
    "Settings": {"kubernetes", "workspace", "withheld", "health"},
    "Broker": {"user", "password_file", "token_file", "credentials_file", "nkey_seed_file", "inbox_prefix"},
    "Sovereign": {"fqdn"},
    "Nodes": {"image"},
    "Api": {"host", "port"},
}
"""What the chart says itself, by model: it is no value."""

READ = {
    "Sovereign": {"harbor", "flux", "catalyst_api", "nodes", "proof", "secret_namespaces"},
    "Harbor": {"robot_secret"},
    "Flux": {"namespace", "git_repository", "git_secret"},
    "CatalystApi": {"namespace", "deployment", "release", "release_namespace"},
    "Nodes": {"namespace", "plan_config_map"},
    "Proof": {"crossplane", "lifter_account", "policy"},
}
"""What the templates read, by model: a value that is `null` is told with its path, not as a template's error."""

NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
HOST = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)+[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DIGEST = r"^sha256:[0-9a-f]{64}$"
IMAGE = r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+$"
SIZE = r"^[1-9][0-9]*(Mi|Gi|Ti)$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
ACCOUNT = r"^system:serviceaccount:[-a-z0-9]+:[-.a-z0-9]+$"
CIDR = r"^[0-9a-fA-F:.]+/[0-9]{1,3}$"
PATTERNS = {
    "namespace": NAME, "release_namespace": NAME, "plan_config_map": NAME, "lifter_account": NAME, "policy": NAME,
    "deployment": NAME, "git_repository": NAME, "kustomization": NAME, "pull_secret": NAME, "git_secret": NAME,
    "registry_secret": NAME, "robot_secret": NAME, "secret_namespaces": NAME, "allow_cidrs": CIDR,
    "cluster_url": r"^https?://[^\s]+$", "log_level": r"^(DEBUG|INFO|WARNING|ERROR)$", "stream": r"^[A-Z0-9_]+$",
    # Never one that begins with kubectl: Flux undoes what those write. (Helm's expressions know no "not".)
    "field_manager": r"^([a-jl-z0-9][a-z0-9.-]*|k[a-tv-z0-9][a-z0-9.-]*|k)$",
}  # fmt: skip
"""Patterns that the models leave to Kubernetes to refuse, by the setting's name."""

WEB = r"^https?://[^\s@]+$"  # no login in it: those are Secrets
REGISTRY = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$"
PROJECT = r"^[a-z0-9]+([._-][a-z0-9]+)*$"
IN_MODEL = {
    ("Broker", "url"): r"^(nats|tls|wss?)://[^\s@]+$",
    ("Gitea", "url"): WEB, ("Gitea", "cluster_url"): WEB, ("Harbor", "url"): WEB, ("UpstreamGit", "url"): WEB,
    ("Harbor", "scheme"): "^https?$", ("Harbor", "connect"): WEB, ("UpstreamGit", "connect"): WEB,
    ("Upstream", "host"): REGISTRY, ("Upstream", "project"): PROJECT, ("Upstream", "endpoint"): WEB,
    ("Mothership", "registry"): REGISTRY, ("Mothership", "chart_project"): PROJECT, ("Mothership", "domains"): HOST,
    ("Identity", "issuer"): WEB, ("Identity", "jwks_url"): WEB, ("Sovereign", "tree"): r"^[^/\s][^\s]*$",
    ("Sovereign", "extra_images"): r"^[a-z0-9][^\s]*$",
    ("Proof", "proxies"): r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?):[0-9]{1,5}$",
    ("ServiceAccounts", "may_act"): ACCOUNT, ("ServiceAccounts", "may_read"): ACCOUNT,
}  # fmt: skip
"""The same where one word means different things in different models."""


def text(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def thing(properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    """An object that is just this."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        **({"required": list(required)} if required else {}),
    }


def many(item: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": item, **more}


PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
SOME: Schema = {"type": "integer", "minimum": 1}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 10}
YES: Schema = {"type": "boolean"}
TEXT: Schema = {"type": "string"}
EMPTY_OR_HOST = text(rf"^$|{HOST}")
NAMES = many(text(NAME), uniqueItems=True)
MAP: Schema = {"type": "object", "additionalProperties": TEXT}
WHEN: Schema = {"enum": ["auto", "always", "never"]}
AMOUNTS = thing({name: text(QUANTITY) for name in ("cpu", "memory", "ephemeral-storage")})
RESOURCES = thing({"requests": AMOUNTS, "limits": AMOUNTS}, ("requests",))
SECRET = thing({"name": text(NAME), "key": text(r"^[-._a-zA-Z0-9]+$")}, ("name", "key"))


def settings() -> tuple[Schema, Schema]:
    """The settings' own schema in the words of values, and the definitions it refers to."""
    whole = Settings.model_json_schema()
    models = whole.pop("$defs")
    whole["title"] = "Settings"
    reached: Schema = {}

    def spelled(schema: Any, name: str = "") -> Any:
        if isinstance(schema, list):
            return [spelled(each, name) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if reference := schema.get("$ref"):
            model = reference.rpartition("/")[2]
            if model not in reached:
                reached[model] = {}
                reached[model] = spelled(models[model])
            return {"$ref": f"#/$defs/{model}"}
        if "properties" in schema:
            return _model(schema, spelled)
        kept = {key: spelled(value, name) for key, value in schema.items() if key not in ("title", "default")}
        if kept.get("type") == "string" and name in PATTERNS:
            kept["pattern"] = PATTERNS[name]
        return kept

    return spelled(whole), reached


def _model(schema: Schema, spelled: Any) -> Schema:
    """One model: every field of its own, no other; a file that holds a secret is named by its Secret."""
    title = schema.get("title", "")
    given = GIVEN.get(title, set())
    properties: Schema = {}
    required = []
    for name, field in schema["properties"].items():
        if name in given:
            continue
        spoken = name
        if _is_path(field):
            spoken = f"{name.removesuffix('_file')}_secret"
            properties[spoken] = SECRET
        else:
            properties[spoken] = _patterned(spelled(field, name), IN_MODEL.get((title, name)))
        if name in schema.get("required", ()) or name in READ.get(title, ()):
            required.append(spoken)
        if name == "secret_namespaces":
            properties[spoken]["uniqueItems"] = True  # a Role for each
    if title == "Harbor":
        properties["host"] = EMPTY_OR_HOST  # empty: made of the Sovereign's name
    return thing(properties, tuple(required))


def _patterned(field: Schema, pattern: str | None) -> Schema:
    """The field with a pattern for its text, or for the texts in it."""
    if pattern is None:
        return field
    if field.get("type") == "string":
        return {**field, "pattern": pattern}
    made = dict(field)
    if "items" in field:
        made["items"] = _patterned(field["items"], pattern)
    if "anyOf" in field:
        made["anyOf"] = [_patterned(each, pattern) for each in field["anyOf"]]
    return made


def _is_path(field: Schema) -> bool:
    return any(each.get("format") == "path" for each in (field, *field.get("anyOf", ())))


def values() -> Schema:
    """The whole schema."""
    told, models = settings()
    workers = {name: _worker() for name in ("supply", "pivot", "proof", "control")}
    users = ("supply", "pivot", "proof", "control", "api", "node-agent", "operator")
    means = ("CiliumClusterwideNetworkPolicy", "ClusterNetworkPolicy", "NetworkPolicy")
    properties: Schema = {
        "global": {
            "type": "object",  # Helm hands global values of other charts in as well
            "properties": {"sovereignFQDN": text(HOST)},
            "required": ["sovereignFQDN"],
        },
        "image": thing(
            {
                "repository": text(IMAGE), "digest": text(DIGEST), "pullSecrets": NAMES,
                "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
            },
            ("repository", "digest"),
        ),
        "prefix": text(r"^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$"),
        "settings": told,
        "rbac": thing(
            {
                "fluxNamespaces": many(text(NAME), uniqueItems=True, minItems=1),
                "canaryNamespaces": NAMES,
                "means": many({"enum": list(means)}, uniqueItems=True, minItems=1),
            },
            ("fluxNamespaces", "canaryNamespaces", "means"),
        ),
        "broker": thing(
            {
                "login": {"enum": ["password", "nkey", "creds"]},
                "secrets": thing({name: text(NAME) for name in users}, users),
                "grow": YES,
                "embedded": _embedded(),
            },
            ("login", "secrets"),
        ),
        "workers": thing(workers, tuple(workers)),
        "priorityClassName": TEXT,
        "nodeSelector": MAP,
        "tolerations": many(_toleration()),
        "terminationGracePeriodSeconds": {"type": "integer", "minimum": 1},
        "api": _api(),
        "nodeAgent": thing(
            {
                "resources": RESOURCES, "registriesDir": text(r"^/[^\s]+$"), "certsDir": text(r"^/[^\s]+$"),
                "priorityClassName": TEXT, "healthPort": PORT,
                "image": thing({"repository": text(rf"^$|{IMAGE}")}),
            }
        ),
        "probes": thing(
            {
                "port": PORT,
                **dict.fromkeys(("periodSeconds", "timeoutSeconds", "failureThreshold"), SOME),
            }
        ),
        "network": _network(),
        "monitoring": thing({
            "serviceMonitor": thing({"enabled": WHEN, "interval": text(r"^[0-9]+(s|m)$"), "labels": MAP}),
            "rules": thing({"enabled": WHEN, "labels": MAP}),
            "dashboard": thing({"enabled": {"type": "boolean"}, "labels": MAP}),
        }),
    }  # fmt: skip
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bp-self-sovereign-cutover",
        **thing(properties, ("global", "image", "settings", "broker")),
        "allOf": _together(),
        "$defs": models,
    }


def _together() -> list[Schema]:
    """What only makes sense together."""

    def on(*path: str, then: Schema) -> Schema:
        condition: Schema = {"const": True}
        for name in reversed(path):
            condition = {"properties": {name: condition}, "required": [name]}
        return {"if": condition, "then": then}

    def within(*path: str, schema: Schema) -> Schema:
        for name in reversed(path):
            schema = {"properties": {name: schema}, "required": [name]}
        return schema

    rehearsal = {"properties": {"rehearsal": {"const": True}}, "required": ["rehearsal"]}
    long_enough = {"anyOf": [rehearsal, {"properties": {"hold": {"type": "number", "minimum": 600}}}]}
    known = {"anyOf": [{"required": ["identity"]}, {"required": ["service_accounts"]}]}
    digest = within("image", schema=within("digest", schema=text(DIGEST)))
    server = within("broker", "embedded", schema=digest)
    nobody = within("broker", schema={"properties": {"login": {"enum": ["password", "nkey"]}}})
    several = {"enabled": {"const": True}, "replicas": {"type": "integer", "minimum": 2}}
    shared = within("settings", "api", schema={"required": ["ticket_key_secret"]})
    return [
        on("api", "enabled", then=within("settings", "api", schema=known)),
        # A ticket of one replica opens nothing at another one that has not its key.
        {"if": within("api", schema={"properties": several, "required": list(several)}), "then": shared},
        on("settings", "auto_fire", "enabled", then=within("settings", schema={"required": ["handover"]})),
        within("settings", "sovereign", "proof", schema=long_enough),
        on("broker", "embedded", "enabled", then={"allOf": [server, nobody]}),
        on(
            "api", "httpRoute", "enabled",
            then=within("api", "httpRoute", "parentRefs", schema={"type": "array", "minItems": 1}),
        ),
    ]  # fmt: skip


def _worker() -> Schema:
    return thing({"replicas": COUNT, "workspace": text(SIZE), "resources": RESOURCES}, ("replicas", "resources"))


def _toleration() -> Schema:
    fields = dict.fromkeys(("key", "operator", "value", "effect"), TEXT)
    return thing({**fields, "tolerationSeconds": {"type": "integer"}})


def _embedded() -> Schema:
    # Without the server its image needs no digest; with it `_together` asks for one.
    image = thing({"repository": text(IMAGE), "digest": text(rf"^$|{DIGEST}")})
    return thing(
        {
            "enabled": YES, "image": image, "storage": text(SIZE),
            "maxFileStore": text(rf"^$|{SIZE}"), "storageClassName": TEXT, "resources": RESOURCES,
        }
    )  # fmt: skip


def _api() -> Schema:
    parent = thing(
        {
            "group": TEXT, "kind": TEXT, "namespace": text(NAME), "name": text(NAME), "sectionName": TEXT, "port": PORT,
        },
        ("name",),
    )  # fmt: skip
    return thing(
        {
            "enabled": YES,
            "replicas": COUNT,
            "port": PORT,
            "resources": RESOURCES,
            "service": thing({"type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}, "port": PORT}),
            "httpRoute": thing({"enabled": YES, "host": EMPTY_OR_HOST, "parentRefs": many(parent)}),
            "ingress": thing(
                {
                    "enabled": YES, "host": EMPTY_OR_HOST, "className": TEXT, "annotations": MAP,
                    "tlsSecretName": text(rf"^$|{NAME}"),
                }
            ),
        }
    )  # fmt: skip


def _network() -> Schema:
    return thing(
        {
            "policies": {"enum": ["auto", "cilium", "kubernetes", "none"]},
            "natsNamespace": text(NAME),
            "giteaNamespace": text(NAME),
            "harborNamespace": text(NAME),
            "identityNamespace": text(rf"^$|{NAME}"),
            "telemetryNamespace": text(rf"^$|{NAME}"),
            "apiServer": thing({"cidrs": many(text(CIDR), minItems=1), "ports": many(PORT, minItems=1)}),
            "localCIDRs": many(text(CIDR)),
            "outside": many({"enum": ["supply", "control", "api"]}, uniqueItems=True),
            "apiFrom": NAMES,
            "metricsFrom": NAMES,
        }
    )


def rendered() -> bytes:
    """The file's bytes."""
    return orjson.dumps(values(), option=orjson.OPT_INDENT_2) + b"\n"


def main() -> int:
    """Write the file, or with --check say whether it is stale."""
    if "--check" in sys.argv[1:]:
        fresh = PLACE.is_file() and PLACE.read_bytes() == rendered()
        if not fresh:
            print(f"{PLACE} is stale: python -m workers.entrypoints.values_schema")
        return 0 if fresh else 1
    PLACE.write_bytes(rendered())
    return 0


if __name__ == "__main__":
    sys.exit(main())
