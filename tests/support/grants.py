"""Grants of the chart one by one, and which of them were used: at the API server, and at the broker."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sandbox.charter import Charter
from sandbox.kube.access import Ask

Object = dict[str, Any]
_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, order=True)
class Grant:
    """One verb on one kind of object for one account; everywhere, in a namespace, or on one name."""

    account: str
    role: str
    namespace: str
    verb: str
    group: str
    resource: str
    name: str = ""

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        what = f"{self.resource}.{self.group}".rstrip(".") + (f"/{self.name}" if self.name else "")
        return f"{self.account.rpartition(':')[2]}: {self.verb} {what}{where}"

    def used(self, asks: Mapping[str, Iterable[Ask]]) -> bool:
        """Did its account ever ask for this?"""
        return any(
            (ask.verb, ask.group, ask.full) == (self.verb, self.group, self.resource)
            and self.namespace in ("", ask.namespace)
            and self.name in ("", ask.name)
            for ask in asks.get(self.account, ())
        )


def rules(objects: Iterable[Object]) -> Iterator[tuple[str, Object, Object]]:
    """(account, Role or ClusterRole, rule) of every binding."""
    objects = list(objects)
    roles = {
        (o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o
        for o in objects
        if o["kind"] in ("Role", "ClusterRole")
    }
    for binding in objects:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        ref = binding["roleRef"]
        role = roles[(ref["kind"], binding["metadata"].get("namespace", ""), ref["name"])]
        for subject in binding["subjects"]:
            account = f"{_PREFIX}{subject['namespace']}:{subject['name']}"
            for rule in role["rules"]:
                yield account, role, rule


def grants(objects: Iterable[Object]) -> list[Grant]:
    """Every grant that the objects make."""
    found = []
    for account, role, rule in rules(objects):
        meta = role["metadata"]
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames") or [""]:
                        where = meta.get("namespace", "")
                        found.append(Grant(account, meta["name"], where, verb, group, resource, name))
    return sorted(set(found))


def without(charter: Charter, gone: Grant) -> Charter:
    """The charter with one grant less, the rest of its rule as it was."""
    objects = copy.deepcopy(list(charter.objects))
    for role in objects:
        meta = role["metadata"]
        if role["kind"] not in ("Role", "ClusterRole") or meta["name"] != gone.role:
            continue
        if meta.get("namespace", "") == gone.namespace:
            role["rules"] = [kept for rule in role["rules"] for kept in _split(rule, gone)]
    return replace(charter, objects=tuple(objects))


def _split(rule: Object, gone: Grant) -> Iterator[Object]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            verbs = [v for v in rule["verbs"] if (v, group, resource) != (gone.verb, gone.group, gone.resource)]
            names = {"resourceNames": rule["resourceNames"]} if "resourceNames" in rule else {}
            if verbs and (not gone.name or gone.name in names.get("resourceNames", ())):
                yield {"apiGroups": [group], "resources": [resource], "verbs": verbs, **names}
            elif not verbs and gone.name and gone.name not in names.get("resourceNames", ()):
                yield {**rule, "apiGroups": [group], "resources": [resource]}
            elif verbs:
                yield {"apiGroups": [group], "resources": [resource], "verbs": rule["verbs"], **names}


# --- the broker ------------------------------------------------------------------------------------------------

_USER = re.compile(r"user: ([-\w]+)(.*?)(?=user: |\Z)", re.DOTALL)
_QUOTED = re.compile(r'"([^"]+)"')
TRACED = "trace: true\nmax_traced_msg_len: 200\n"
"""Has nats-server log what every client publishes."""


def published_by(users: str) -> dict[str, tuple[list[str], list[str]]]:
    """User -> what it may publish, and what it may not, as the chart's users.conf says."""
    found = {}
    for user, body in _USER.findall(users):
        publish, _, _ = body.partition("subscribe:")
        allow, _, deny = publish.partition("deny:")
        found[user] = (_QUOTED.findall(allow), _QUOTED.findall(deny))
    return found


def matches(pattern: str, subject: str) -> bool:
    """As nats-server matches subjects."""
    wanted, given = pattern.split("."), subject.split(".")
    for place, token in enumerate(wanted):
        if token == ">":
            return len(given) > place
        if place >= len(given) or token not in ("*", given[place]):
            return False
    return len(wanted) == len(given)


def published(log: Path) -> dict[str, set[str]]:
    """User -> subjects it published to, read from a traced server's log. Users are known by their inboxes."""
    users: dict[str, str] = {}
    subjects: dict[str, set[str]] = {}
    life = 0
    for line in log.read_text(errors="replace").splitlines():
        life += "Starting nats-server" in line  # a server that starts again counts its clients anew
        if not (seen := re.search(r"cid:(\d+).*<<- \[(H?PUB|SUB) (\S+)", line)):
            continue
        number, verb, subject = seen.groups()
        client = f"{life}.{number}"
        if verb != "SUB":
            subjects.setdefault(client, set()).add(subject)
        elif inbox := re.match(r"_INBOX_([-\w]+)\.", subject):
            users[client] = inbox[1]
    found: dict[str, set[str]] = {}
    for client, sent in subjects.items():
        found.setdefault(users.get(client, "?"), set()).update(sent)
    return found


def subjects(users: str) -> list[tuple[str, str]]:
    """(user, subject) of every grant: what may be published, and where it may listen."""
    found = []
    for user, body in _USER.findall(users):
        publish, _, subscribe = body.partition("subscribe:")
        allow, _, _ = publish.partition("deny:")
        found += [(user, each) for each in (*_QUOTED.findall(allow), *_QUOTED.findall(subscribe))]
    return found


def without_subject(charter: Charter, user: str, subject: str) -> Charter:
    """The charter with one subject less. Something else stands in its place: an empty list would allow everything."""
    head, mark, tail = charter.users.partition(f"user: {user}\n")
    body, following, rest = tail.partition("user: ")
    if f'"{subject}"' not in body:
        raise LookupError(f"{user} was never granted {subject}")
    less = body.replace(f'"{subject}"', '"nothing.at.all"', 1)
    return replace(charter, users=f"{head}{mark}{less}{following}{rest}")
