"""Who asks and what they may: bearer tokens, and RBAC from the objects in the store."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from sandbox.kube.store import Store

Object = dict[str, Any]
ISSUER = "https://kubernetes.default.svc"
RBAC = "rbac.authorization.k8s.io"
AUTHENTICATED = "system:authenticated"
_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    credential: str = ""


@dataclass(frozen=True)
class Ask:
    """What is asked: a verb on a resource, or on a path that is no resource."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def full(self) -> str:
        """`deployments/status`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def named(name: str) -> User:
    """A user with the groups that the name implies."""
    if name == "system:admin":
        return User(name, ("system:masters", AUTHENTICATED))
    if name.startswith(_PREFIX):
        namespace = name.removeprefix(_PREFIX).partition(":")[0]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
        return User(name, groups)
    return User(name, (AUTHENTICATED,))


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


def _read(part: str) -> Any:
    return orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


class Tokens:
    """Signs and reads the tokens of service accounts, and knows the administrator's."""

    def __init__(self, store: Store, secret: str, admin: str) -> None:
        self._store = store
        self._secret = secret.encode()
        self._admin = admin

    def issue(self, namespace: str, name: str, uid: str, audiences: list[str], seconds: int, now: datetime) -> str:
        """A token for a service account."""
        claims = {
            "iss": ISSUER,
            "aud": audiences,
            "sub": f"{_PREFIX}{namespace}:{name}",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(seconds=seconds)).timestamp()),
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
        }
        head = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
        return f"{head}.{self._signature(head)}"

    def _signature(self, head: str) -> str:
        digest = hmac.new(self._secret, head.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def claims(self, token: str, now: datetime) -> Object | None:
        """The claims of a token that is ours, has not expired, and whose account still exists."""
        head, _, signature = token.rpartition(".")
        if not head or not hmac.compare_digest(signature, self._signature(head)):
            return None
        claims: Object = _read(head.split(".")[1])
        bound = claims["kubernetes.io"]
        account = self._store.get(("", "serviceaccounts"), bound["namespace"], bound["serviceaccount"]["name"])
        if claims["exp"] < now.timestamp() or account is None:
            return None
        return claims if account["metadata"]["uid"] == bound["serviceaccount"]["uid"] else None

    def user(self, token: str, now: datetime, audience: str = ISSUER) -> User | None:
        """Whose token it is; None when it is nobody's, or for someone else to read."""
        if hmac.compare_digest(token, self._admin):
            return named("system:admin")
        claims = self.claims(token, now)
        if claims is None or audience not in claims["aud"]:
            return None
        known = named(claims["sub"])
        uid = claims["kubernetes.io"]["serviceaccount"]["uid"]
        return User(known.name, known.groups, uid, f"JTI={claims['jti']}")


# What everyone who is signed in may do (system:discovery, system:basic-user, system:public-info-viewer).
_PATHS = ("/api", "/apis", "/version", "/openapi", "/healthz", "/livez", "/readyz")
_BASIC = {("authorization.k8s.io", "selfsubjectaccessreviews")}


def allowed(store: Store, user: User, ask: Ask) -> bool:
    """Whether RBAC lets the user do it."""
    if "system:masters" in user.groups:
        return True
    if not ask.resource:
        return ask.verb == "get" and ask.path.startswith(_PATHS)
    if ask.verb == "create" and (ask.group, ask.resource) in _BASIC:
        return True
    bindings = [(b, "") for b in store.all((RBAC, "clusterrolebindings"))]
    if ask.namespace:
        bindings += [(b, ask.namespace) for b in store.all((RBAC, "rolebindings"), ask.namespace)]
    return any(
        _grants(rule, ask)
        for binding, namespace in bindings
        if any(_is(subject, user, namespace) for subject in binding.get("subjects") or ())
        for rule in _rules(store, binding["roleRef"], namespace)
    )


def _is(subject: Object, user: User, namespace: str) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(subject.get("name") == user.name)
        case "Group":
            return subject.get("name") in user.groups
        case "ServiceAccount":
            home = subject.get("namespace") or namespace
            return user.name == f"{_PREFIX}{home}:{subject.get('name')}"
    return False


def _rules(store: Store, ref: Object, namespace: str) -> list[Object]:
    if ref.get("kind") == "ClusterRole":
        role = store.get((RBAC, "clusterroles"), "", ref["name"])
    else:
        role = store.get((RBAC, "roles"), namespace, ref["name"])
    return (role or {}).get("rules") or []


def _grants(rule: Object, ask: Ask) -> bool:
    def has(field: str, value: str) -> bool:
        listed = rule.get(field) or ()
        return "*" in listed or value in listed

    resources = rule.get("resources") or ()
    named_resource = has("resources", ask.full) or f"*/{ask.subresource}" in resources
    names = rule.get("resourceNames") or ()
    return has("verbs", ask.verb) and has("apiGroups", ask.group) and named_resource and (
        not names or ask.name in names
    )  # fmt: skip
