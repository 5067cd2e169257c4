"""What a Gitea remembers besides its repositories: accounts, tokens, organisations. One JSON file."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from sandbox.githost import Asker, Refused

State = dict[str, Any]


class Book:
    """The file `state.json`, written whole after every change."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "state.json"
        self.state: State = {"users": {}, "orgs": {}, "tokens": [], "repos": {}, "next": 1}
        if self._file.exists():
            self.state = json.loads(self._file.read_text(encoding="utf-8"))

    def write(self) -> None:
        """Replace the file, so that a crash leaves the old one or the new one."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(self.state, indent=1, sort_keys=True), encoding="utf-8")
        fresh.replace(self._file)

    def number(self) -> int:
        """The next id."""
        self.state["next"] += 1
        return int(self.state["next"]) - 1

    def taken(self, name: str) -> bool:
        """Users and organisations share one set of names."""
        return name.lower() in {known.lower() for known in [*self.state["users"], *self.state["orgs"]]}

    def add_user(self, name: str, password: str, *, admin: bool) -> None:
        """A new user, or a new password for one that is there."""
        old = self.state["users"].get(name, {"id": self.number()})
        self.state["users"][name] = {**old, "password": digest(password), "admin": admin}
        self.write()

    def add_token(self, user: str, name: str, scopes: list[str]) -> tuple[State, str]:
        """A new token: what is kept of it, and the secret, which is told this once."""
        secret = secrets.token_hex(20)
        token = {"id": self.number(), "user": user, "name": name, "scopes": scopes}
        self.state["tokens"].append({**token, "hash": digest(secret), "last_eight": secret[-8:]})
        self.write()
        return self.state["tokens"][-1], secret

    def check(self, user: str, secret: str) -> Asker:
        """Who presents these credentials. A token counts as password of any user name, as in Gitea."""
        hashed = digest(secret)
        for token in self.state["tokens"]:
            if token["hash"] in (hashed, digest(user)):
                return Asker(token["user"], frozenset(token["scopes"]))
        known = self.state["users"].get(user)
        if known is None or known["password"] != hashed:
            raise Refused(user)
        return Asker(user)

    def may_write(self, user: str | None, owner: str) -> bool:
        """Administrators, the owner itself, and whoever made the organisation."""
        if user is None:
            return False
        admin = bool(self.state["users"].get(user, {}).get("admin"))
        return admin or user == owner or self.state["orgs"].get(owner, {}).get("creator") == user


def digest(secret: str) -> str:
    """How a secret is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def allows(scopes: frozenset[str] | None, needed: str) -> bool:
    """Whether a token's scopes cover `read:repository` and the like; writing covers reading."""
    if scopes is None or "all" in scopes or needed in scopes:
        return True
    level, _, category = needed.partition(":")
    return level == "read" and f"write:{category}" in scopes
