"""Who may do what on a Sovereign in a box: the chart's own service accounts and roles, and its users of the broker.

Without a charter everybody is the administrator, as on a laptop. With one, the API server and nats-server enforce
what the chart grants, and every worker process is of one class with that class's identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

WORKERS = ("supply", "pivot", "proof", "control")
API = "api"
"""The front door, where the chart is told to have one."""
NODE_AGENT = "node-agent"
LIFTER = "lifter"
BOX = "box"
"""The broker's user that the sandbox and its tests are."""


def variable(user: str) -> str:
    """The environment variable of the broker that holds a user's password."""
    return f"CUTOVER_NATS_{user.upper().replace('-', '_')}"


def key(user: str) -> str:
    """A user's password in the keyring."""
    return f"nats-{user}"


def inbox(user: str) -> str:
    """Where a user's answers come in: nobody else may listen there."""
    return f"_INBOX_{user}"


@dataclass(frozen=True)
class Charter:
    """What is granted to whom."""

    objects: tuple[Object, ...]
    """Namespaces, ServiceAccounts, Roles and their bindings."""
    users: str
    """The broker's `users = [...]`, each password a variable."""
    accounts: Mapping[str, str] = field(default_factory=dict)
    """Class -> `system:serviceaccount:<namespace>:<name>`."""
    secret_namespaces: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    """Classes that are given the logins upstream."""
    more: str = ""
    """Further configuration of the broker."""

    def authorization(self) -> str:
        """The broker's configuration: the chart's users, and the sandbox's own."""
        head, bracket, tail = self.users.rpartition("]")
        if not bracket:
            raise ValueError("the chart's broker users are no list")
        ours = f"  {{user: {BOX}, password: ${variable(BOX)}}}\n"
        return f"authorization {{\n{head}{ours}]{tail}}}\n{self.more}"

    @property
    def names(self) -> tuple[str, ...]:
        """Users of the broker: the chart's, and the sandbox's own."""
        return (*re.findall(r"user: ([-\w]+)", self.users), BOX)
