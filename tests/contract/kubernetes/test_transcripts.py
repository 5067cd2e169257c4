"""The sandbox answers as a real kube-apiserver 1.36 did: 123 recorded requests, asked again in their order.

Compared are status, `reason`, every key and every value, save ids, times, versions and the words of messages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import aiohttp
import pytest
import yaml

from sandbox.clock import Clock
from sandbox.kube import KubeApi

SHARED = Path(__file__).parents[3] / "../shared/data"
RECORDING = SHARED / "kubernetes-1.36/transcripts.jsonl"
CRDS = [SHARED / "crds" / name for name in ("flux-2.4", "crossplane-1.18", "cilium")]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

# What a real server also lists and the sandbox does not serve: nothing in a cutover touches it.
GROUPS_LEFT_OUT = {"certificates.k8s.io", "node.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io"}
RESOURCES_LEFT_OUT = {
    "bindings", "componentstatuses", "ipaddresses", "servicecidrs", "servicecidrs/status", "nodes/proxy",
    "pods/attach", "pods/ephemeralcontainers", "pods/exec", "pods/portforward", "pods/proxy", "pods/resize",
    "services/proxy",
}  # fmt: skip
VERSIONS_LEFT_OUT = {"autoscaling/v1"}

IDS = {"resourceVersion", "uid", "continue"}
VOLATILE = IDS | {
    "creationTimestamp", "deletionTimestamp", "expirationTimestamp", "message", "token", "serverAddress", "error",
    "storageVersionHash", "authentication.kubernetes.io/credential-id",
}  # fmt: skip


def recorded() -> list[dict[str, Any]]:
    if not RECORDING.exists():
        return []
    return [json.loads(line) for line in RECORDING.read_text().splitlines()]


RECORDS = recorded()


@dataclass
class Replay:
    """Asks again, with the ids that we were given in place of the recorded ones."""

    kube: KubeApi
    http: aiohttp.ClientSession
    ids: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    async def ask(self, record: dict[str, Any]) -> dict[str, Any]:
        request = record["request"]
        headers = {"Authorization": f"Bearer {self.bearer(record['name'])}"}
        headers |= {
            name: request[key]
            for key, name in (("accept", "Accept"), ("content_type", "Content-Type"))
            if request.get(key)
        }
        body = self.translated(request.get("body"), record["name"])
        data = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
        url = self.kube.url + self.path(request["path"])
        async with self.http.request(request["method"], url, data=data, headers=headers) as response:
            text = await response.text()
        if "stream" in record["response"]:
            return {"status": response.status, "stream": [json.loads(line) for line in text.splitlines()]}
        is_json = response.content_type == "application/json"
        answer = {"status": response.status, "body": json.loads(text) if is_json else text}
        answer["warning"] = response.headers.get("Warning")
        self.learn(record["response"]["body"], answer["body"])
        if record["name"].startswith("token-request"):
            self.tokens[record["name"]] = answer["body"]["status"]["token"]
        return answer

    def bearer(self, name: str) -> str:
        """The recording leaves tokens out; its names and notes say whose was sent."""
        match name:
            case "unauthorized-wrong-audience":
                return self.tokens["token-request"]
            case "forbidden" | "forbidden-create":
                return self.tokens["token-request-default-audience"]
            case "unauthorized":
                return "nobody's"
        return self.kube.token()

    def path(self, path: str) -> str:
        bare, _, query = path.partition("?")
        pairs = [(k, self.ids.get(v, v) if k in IDS else v) for k, v in parse_qsl(query, keep_blank_values=True)]
        return f"{bare}?{urlencode(pairs)}" if pairs else bare

    def translated(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {
                key: self.ids.get(item, item) if key in IDS and isinstance(item, str) else self.translated(item, name)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.translated(item, name) for item in value]
        return self.tokens["token-request"] if value == "(the JWT)" else value

    def learn(self, theirs: Any, ours: Any) -> None:
        if isinstance(theirs, dict) and isinstance(ours, dict):
            for key, value in theirs.items():
                if key in IDS and isinstance(value, str) and isinstance(ours.get(key), str):
                    self.ids[value] = ours[key]
                else:
                    self.learn(value, ours.get(key))
        elif isinstance(theirs, list) and isinstance(ours, list):
            for one, other in zip(theirs, ours, strict=False):
                self.learn(one, other)


async def prepared(kube: KubeApi) -> None:
    """The definitions of the recorded server, and what an earlier run had left in its namespace `t1`."""
    for directory in CRDS:
        for file in sorted(directory.iterdir()):
            document = yaml.safe_load(file.read_text())
            path = f"{DEFINITIONS}/{document['metadata']['name']}"
            document["metadata"].pop("resourceVersion", None)
            code, answer = await kube.local.request("PUT", path, document)
            assert code == 200, answer
    await kube.local.request("POST", "/api/v1/namespaces", {"metadata": {"name": "t1"}})
    left = {n: r for n in ("list-all-namespaces", "gitrepo-list") for r in RECORDS if r["name"] == n}
    for record in left.values():
        item = next(i for i in record["response"]["body"]["items"] if i["metadata"]["namespace"] == "t1")
        metadata = {key: item["metadata"][key] for key in ("name", "labels") if key in item["metadata"]}
        path = record["request"]["path"].partition("?")[0]
        head, _, plural = path.rpartition("/")
        body = {key: value for key, value in item.items() if key != "status"} | {"metadata": metadata}
        code, answer = await kube.local.request("POST", f"{head}/namespaces/t1/{plural}", body)
        assert code == 201, answer


async def replayed(directory: Path) -> dict[str, dict[str, Any]]:
    async with KubeApi.open(directory, Clock()) as kube:
        await prepared(kube)
        async with aiohttp.ClientSession(headers={"User-Agent": "Python/3"}) as http:
            replay = Replay(kube, http)
            return {record["name"]: await replay.ask(record) for record in RECORDS}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return asyncio.run(replayed(tmp_path_factory.mktemp("kube")))


def differences(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """Where two bodies differ in shape or value."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in sorted(theirs.keys() | ours.keys()):
            if name == "managedFields":
                yield from owners(theirs.get(name), ours.get(name), f"{path}.{name}")
            elif name not in ours or name not in theirs:
                yield f"{path}.{name}: only {'theirs' if name in theirs else 'ours'}"
            elif name in VOLATILE:
                if type(theirs[name]) is not type(ours[name]):
                    yield f"{path}.{name}: {theirs[name]!r} / {ours[name]!r}"
            elif name == "name" and "generateName" in theirs:
                if not generated(theirs, ours):
                    yield f"{path}.name: {ours[name]}"
            else:
                yield from differences(theirs[name], ours[name], f"{path}.{name}")
    elif isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            yield f"{path}: {len(theirs)} / {len(ours)} items"
        for at, (one, other) in enumerate(zip(theirs, ours, strict=False)):
            yield from differences(one, other, f"{path}[{at}]")
    elif theirs != ours or type(theirs) is not type(ours):
        yield f"{path}: {theirs!r} / {ours!r}"


def generated(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    made = str(ours["name"])
    return made.startswith(theirs["generateName"]) and len(made) == len(theirs["name"])


def owners(theirs: Any, ours: Any, path: str) -> Iterator[str]:
    """managedFields: the same owners of the same fields, whatever the times (and so the order)."""

    def told(entries: Any) -> list[Any]:
        kept = [{key: value for key, value in entry.items() if key != "time"} for entry in entries or ()]
        # A field path may hold a uid, which is the server's own.
        text = [json.dumps(entry, sort_keys=True) for entry in kept]
        return sorted(t if '\\"uid\\"' not in t else "owner reference" for t in text)

    if told(theirs) != told(ours):
        yield f"{path}:\n   {told(theirs)}\n   {told(ours)}"


def discovery(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """A discovery document without order, and without what the sandbox leaves out."""
    if "groups" in body:
        kept = [group for group in body["groups"] if group["name"] not in GROUPS_LEFT_OUT]
        for group in kept:
            group["versions"] = [v for v in group["versions"] if v["groupVersion"] not in VERSIONS_LEFT_OUT]
        return {**body, "groups": sorted(kept, key=lambda group: group["name"])}
    if "resources" in body:
        kept = [one for one in body["resources"] if one["name"] not in RESOURCES_LEFT_OUT]
        return {**body, "resources": sorted(kept, key=lambda one: one["name"])}
    return body


@pytest.mark.skipif(not RECORDS, reason="the recorded answers are not here")
@pytest.mark.parametrize("record", RECORDS, ids=[record["name"] for record in RECORDS])
def test_the_sandbox_answers_as_the_real_server_did(record: dict[str, Any], answers: dict[str, dict[str, Any]]) -> None:
    theirs, ours = record["response"], answers[record["name"]]
    if "stream" in theirs:
        events = [event for event in theirs["stream"] if "_eof" not in event]
        ended = len(events) < len(theirs["stream"])
        # A recording that broke off says only how the stream began.
        assert list(differences(events, ours["stream"] if ended else ours["stream"][: len(events)])) == []
        return
    assert ours["status"] == theirs["status"], ours["body"]
    if isinstance(theirs["body"], str):
        assert ours["body"] == theirs["body"]
        return
    assert ours["body"].get("reason") == theirs["body"].get("reason")
    if record["name"] == "version":
        assert ours["body"].keys() == theirs["body"].keys()
        return
    if record["name"].startswith("discovery"):
        theirs, ours = ({**a, "body": discovery(record["name"], a["body"])} for a in (theirs, ours))
    if record["name"] == "table":
        described(theirs["body"], ours["body"])
    if record["name"] in ("list-all-namespaces", "gitrepo-list"):
        of_an_earlier_run(theirs["body"], ours["body"])
    assert list(differences(theirs["body"], ours["body"])) == []
    assert ours["warning"] == theirs["headers"].get("Warning")


def of_an_earlier_run(*lists: dict[str, Any]) -> None:
    """Who owns the fields of what was left in `t1` is not in the recording's story."""
    for one in lists:
        for item in one["items"]:
            if item["metadata"].get("namespace") == "t1":
                item["metadata"].pop("managedFields")


def described(*tables: dict[str, Any]) -> None:
    """Tables are compared without their prose and ages."""
    for table in tables:
        for column in table["columnDefinitions"]:
            column.pop("description")
        for row in table["rows"]:
            row["cells"].pop()
