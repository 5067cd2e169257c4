"""Registry credentials: those of local Harbor where it asks for any, none of the mothership's anywhere. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from workers.adapters.cluster_kinds import Object, key_of, name_of
from workers.errors import Stuck
from workers.sovereign import Login, Sovereign
from workers.tethers import DOCKER_CONFIG, Names, auths_of, host_of, login_key, with_auths

Auths = Mapping[str, Any]


class Lent(Login):
    """A login whose secret lies in a Secret of the cluster and not in a file."""

    password_file: Path = Path("/nonexistent")
    secret: SecretStr

    def password(self) -> SecretStr:
        """The secret as it was read."""
        return self.secret


def lent(secrets: Iterable[Object], kept: Collection[tuple[str, str]], local: Auths) -> list[tuple[Object, str]]:
    """(Secret, its new data) of those that sources keep referring to, with the login of local Harbor added."""
    found: list[tuple[Object, str]] = []
    for secret in secrets:
        if key_of(secret) in kept and login_key(secret):
            auths = _auths(secret)
            if any(auths.get(host) != login for host, login in local.items()):
                found.append((secret, with_auths(secret, {**auths, **local})))
    return found


def entry(host: str, login: Login) -> Auths:
    """The auths of a Secret for one host, as kubelet and Flux read it."""
    password = login.password().get_secret_value()
    token = base64.b64encode(f"{login.username}:{password}".encode()).decode()
    return {host: {"username": login.username, "password": password, "auth": token}}


def pull_secret(name: str, namespace: str, auths: Auths) -> Object:
    """A whole pull secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {DOCKER_CONFIG: _encoded({"auths": dict(auths)})},
    }


def strips(
    secrets: Iterable[Object], sovereign: Sovereign, referenced: Collection[tuple[str, str]], local: Auths
) -> list[tuple[Object, str]]:
    """(Secret, its new data) of every Secret that still opens a door upstream.

    The mothership's pull secret, by name in every namespace, its copies under other names, and what pivoted
    sources referred to lose every upstream entry; any other Secret only entries for the mothership's hosts:
    a customer's own login at ghcr.io is no tether. An entry for local Harbor stays, and `local` is added.
    """
    names = Names.of(sovereign)
    found: list[tuple[Object, str]] = []
    readable = [(secret, _auths(secret)) for secret in secrets if login_key(secret)]
    lent = [_login(v) for s, auths in readable if name_of(s) == sovereign.flux.pull_secret for v in auths.values()]
    for secret, auths in readable:
        theirs = name_of(secret) == sovereign.flux.pull_secret or key_of(secret) in referenced
        gone = {
            host
            for host, login in auths.items()
            if host_of(host) != sovereign.harbor.host
            and names.foreign_registry(host_of(host))
            and (theirs or names.in_text(host_of(host)) or _login(login) in lent)
        }
        new = {host: login for host, login in auths.items() if host not in gone}
        if theirs:
            new = {**new, **local}
        if new != dict(auths):
            found.append((secret, with_auths(secret, new)))
    return found


def _auths(secret: Object) -> Auths:
    try:
        return auths_of(secret)
    except ValueError as error:
        raise Stuck("PullSecretUnreadable", f"Secret {'/'.join(key_of(secret))}: {error}") from None


def _login(value: Any) -> str:
    """The credential itself, however it is written; unique nonsense for none."""
    if not isinstance(value, Mapping):
        return f"?{id(value)}"
    if value.get("auth"):
        return str(value["auth"])
    plain = f"{value.get('username', '')}:{value.get('password', '')}"
    return base64.b64encode(plain.encode()).decode() if plain != ":" else f"?{id(value)}"


def _encoded(config: Mapping[str, Any]) -> str:
    return base64.b64encode(json.dumps(config, separators=(",", ":")).encode()).decode()
