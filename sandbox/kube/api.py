"""From a request to its answer: what the path names, whether the caller may, and which verb it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sandbox.clock import Clock
from sandbox.kube import discovery, errors, openapi, options, protobuf, subresources, tables
from sandbox.kube.access import Ask, Tokens, User, allowed
from sandbox.kube.call import Call
from sandbox.kube.definitions import Definitions
from sandbox.kube.resources import Catalogue, Resource
from sandbox.kube.store import Store
from sandbox.kube.verbs import Verbs
from sandbox.kube.watch import Watch

Object = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What came in; the body as bytes from the wire, or as a value from within."""

    method: str
    path: str
    user: User
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"
    agent: str = "unknown"

    @property
    def watches(self) -> bool:
        """Whether a stream is asked for."""
        return self.method == "GET" and self.query.get("watch") in ("1", "true")


@dataclass(frozen=True)
class Answer:
    """What goes out; a string body is plain text."""

    code: int
    body: Any
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def target(path: str, catalogue: Catalogue) -> Target | None:
    """The object or collection that a path names; None for other paths. Raises NoSuchPath."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = catalogue.find(group, version, rest[0])
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise errors.NoSuchPath(path)
    name, subresource = (*rest[1:], "", "")[:2]
    if name and resource.namespaced and not namespace:
        raise errors.NoSuchPath(path)
    if subresource and subresource not in resource.subresources:
        raise errors.NoSuchPath(path)
    return Target(resource, namespace, name, subresource)


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def verb(request: Request, found: Target) -> str:
    """The verb, as RBAC names it."""
    if request.method in ("GET", "HEAD"):
        return "get" if found.name else ("watch" if request.watches else "list")
    known = _VERBS.get(request.method, request.method.lower())
    return "deletecollection" if known == "delete" and not found.name else known


class Api:
    """The whole API, without a wire."""

    def __init__(self, store: Store, clock: Clock, tokens: Tokens) -> None:
        self.store = store
        self.clock = clock
        self.tokens = tokens
        self.catalogue = Catalogue()
        self.verbs = Verbs(store, self.catalogue, clock)
        self.definitions = Definitions(store, self.catalogue)
        self.refused: set[tuple[str, str, str]] = set()
        """(verb, group, plural) that an authorizer in front of RBAC refuses to everybody."""
        self.asked: dict[str, set[Ask]] = {}
        """What each service account asked for and was granted."""
        self.denied: dict[str, set[Ask]] = {}
        """What each asked for in vain."""

    def answer(self, request: Request) -> Answer:
        """The answer to anything but a watch."""
        try:
            found = target(request.path, self.catalogue)
            self._authorize(request, found)
            if found is None:
                return self._path(request)
            return self._resource(request, found)
        except errors.ApiError as error:
            return Answer(error.code, error.status())
        except errors.NoSuchPath:
            return Answer(404, "404 page not found\n")

    def watch(self, request: Request) -> tuple[Watch, Call]:
        """A watch; raises ApiError or NoSuchPath when there is none."""
        found = target(request.path, self.catalogue)
        self._authorize(request, found)
        if found is None or found.subresource:
            raise errors.NoSuchPath(request.path)
        call = self._call(request, found)
        if found.name:
            named = f"metadata.name={found.name}"
            call.query = {**call.query, "fieldSelector": named}
        return Watch(self.verbs, call), call

    def render(self, body: Object, request: Request, resource: Resource) -> Object:
        """The body in the form that `Accept` asks for."""
        include = request.query.get("includeObject", "")
        return tables.render(body, request.accept, resource, self.clock.now(), include)

    def _authorize(self, request: Request, found: Target | None) -> None:
        if found is None:
            ask = Ask(request.method.lower(), path=request.path)
            if not allowed(self.store, request.user, ask):
                why = f'User "{request.user.name}" cannot {ask.verb} path "{request.path}"'
                raise errors.ApiError(403, "Forbidden", f"forbidden: {why}", {})
            return
        self._authorize_verb(request, found, verb(request, found))

    def _authorize_verb(self, request: Request, found: Target, wanted: str) -> None:
        r = found.resource
        namespace = found.name if r.key == ("", "namespaces") else found.namespace
        # A list or watch of one name is asked for by that name (apiserver, request/requestinfo.go).
        selector = request.query.get("fieldSelector", "") if wanted in ("list", "watch") else ""
        name = found.name or (selector.removeprefix("metadata.name=") if selector.startswith("metadata.name=") else "")
        ask = Ask(wanted, r.group, r.plural, found.subresource, namespace, name)
        refused = (wanted, r.group, r.plural) in self.refused
        if not refused and allowed(self.store, request.user, ask):
            if request.user.credential:
                self.asked.setdefault(request.user.name, set()).add(ask)
            return
        if request.user.credential:
            self.denied.setdefault(request.user.name, set()).add(ask)
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        why = f'User "{request.user.name}" cannot {wanted} resource "{ask.full}" in API group "{r.group}" {where}'
        raise errors.forbidden(r.group, ask.full, found.name, why)

    def _call(self, request: Request, found: Target) -> Call:
        return Call(
            found.resource,
            found.namespace,
            found.name,
            found.subresource,
            request.query,
            _read(request, found.resource),
            request.content_type.partition(";")[0].strip(),
            request.agent,
            request.user,
        )

    def _resource(self, request: Request, found: Target) -> Answer:
        wanted, r = verb(request, found), found.resource
        known = r.verbs if not found.subresource else ("get", "update", "patch", "create")
        nameless = wanted in ("update", "patch") and not found.name
        if wanted not in known or nameless or (wanted == "create" and found.name and not found.subresource):
            raise errors.not_allowed()
        call = self._call(request, found)
        options.check(wanted, call)
        if found.subresource and found.subresource != "status":
            return self._subresource(request, call)
        if wanted == "create" and r.verbs == ("create",):
            return Answer(201, self._review(call), tuple(call.warnings))
        code, body = 200, {}
        match wanted:
            case "get":
                body = self.verbs.get(call)
            case "list":
                body = self.verbs.list(call)
            case "create":
                code, body = 201, self.verbs.create(call)
            case "update":
                body = self.verbs.update(call)
            case "patch":
                self._authorize_creation(request, found)
                body, made = self.verbs.patch(call)
                code = 201 if made else 200
            case "delete":
                body = self.verbs.delete(call)
            case _:
                body = self.verbs.delete_collection(call)
        if body.get("kind") != "Status":
            body = self.render(body, request, r)
        return Answer(code, body, tuple(call.warnings))

    def _authorize_creation(self, request: Request, found: Target) -> None:
        """An apply that creates needs `create` too, with the object's name (handlers/patch.go)."""
        r = found.resource
        applies = request.content_type.startswith("application/apply-patch")
        if applies and self.store.get(r.key, found.namespace, found.name) is None:
            self._authorize_verb(request, found, "create")

    def _review(self, call: Call) -> Object:
        if call.resource.kind == "TokenReview":
            return subresources.token_review(call, self.verbs, self.tokens)
        return subresources.access_review(call, self.verbs, self.store)

    def _subresource(self, request: Request, call: Call) -> Answer:
        match (request.method, call.subresource):
            case ("POST", "token"):
                return Answer(201, subresources.token_request(call, self.verbs, self.tokens))
            case (("GET" | "PUT" | "PATCH"), "scale"):
                return Answer(200, subresources.scale(call, self.verbs, request.method))
            case ("POST", "eviction"):
                return Answer(201, subresources.evict(call, self.verbs))
            case ("POST", "binding"):
                return Answer(201, subresources.bind(call, self.verbs))
            case ("PUT", "finalize"):
                return Answer(200, subresources.finalize(call, self.verbs))
            case ("GET", "log"):
                log = self.verbs.get(call)["metadata"].get("annotations", {}).get("sandbox/log", "")
                return Answer(200, str(log))
        raise errors.not_allowed()

    def _path(self, request: Request) -> Answer:
        parts = [part for part in request.path.split("/") if part]
        if request.method not in ("GET", "HEAD"):
            raise errors.not_allowed()
        body: Object | None = None
        match parts:
            case ["api"]:
                body = discovery.versions()
            case ["apis"]:
                body = discovery.groups(self.catalogue)
            case ["apis", group]:
                body = discovery.group(self.catalogue, group)
            case ["api", version]:
                body = discovery.resources(self.catalogue, "", version)
            case ["apis", group, version]:
                body = discovery.resources(self.catalogue, group, version)
            case ["openapi", "v3"]:
                body = openapi.index(self.catalogue)
            case ["openapi", "v3", *root]:
                body = openapi.document(self.catalogue, "/".join(root))
            case ["version"]:
                body = discovery.version()
            case ["healthz" | "livez" | "readyz", *_]:
                return Answer(200, "ok")
        if body is None:
            raise errors.NoSuchPath(request.path)
        return Answer(200, body)


def _read(request: Request, resource: Resource) -> Any:
    """The body as a value of its own; raises 400."""
    raw = request.body
    if raw is None or raw == b"":
        return None
    if not isinstance(raw, bytes):
        return orjson.loads(orjson.dumps(raw))
    if request.content_type.startswith(protobuf.CONTENT_TYPE):
        try:
            return protobuf.decode(raw)
        except (protobuf.Unreadable, UnicodeDecodeError) as error:
            raise errors.bad_request(str(error)) from error
    try:
        if "yaml" in request.content_type and raw.lstrip()[:1] not in (b"{", b"["):
            return YAML(typ="safe", pure=True).load(raw)
        return _typed(request, resource, orjson.loads(raw))
    except (orjson.JSONDecodeError, YAMLError) as error:
        if request.method == "PATCH":
            raise errors.bad_request(f"error decoding patch: {error}") from error
        said = f"the object provided is unrecognized (must be of type {resource.kind}): couldn't get version/kind"
        raise errors.bad_request(f"{said}; json parse error: {error}") from error


def _typed(request: Request, resource: Resource, body: Any) -> Any:
    """A builtin kind is decoded into its own type; a custom object must say itself what it is."""
    if resource.custom and request.method in ("POST", "PUT") and isinstance(body, dict):
        for key, shown in (("kind", "Kind"), ("apiVersion", "apiVersion")):
            if not body.get(key):
                said = f"the object provided is unrecognized (must be of type {resource.kind})"
                raise errors.bad_request(f"{said}: Object '{shown}' is missing in '{request.body.decode()[:200]}'")
    return body
