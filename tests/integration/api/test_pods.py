"""Callers in the cluster: known by the API server, for our audience, and only who is named may act."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from api_bench import BASE, running, settings
from pool_bench import Bench, opened

from events.envelope import read
from events.subjects import REQUESTED
from sandbox.clock import Clock
from sandbox.kube import KubeApi
from sandbox.oidc import Issuer
from workers.entrypoints.api import serve
from workers.entrypoints.settings import Kubernetes, ServiceAccounts

AUDIENCE = "catalyst-cutover"
TRUSTED = "system:serviceaccount:catalyst-system:catalyst-api"


@dataclass
class Pods:
    bench: Bench
    kube: KubeApi
    issuer: Issuer
    client: httpx.AsyncClient
    admin: httpx.AsyncClient

    async def token(self, name: str, audience: str) -> str:
        """As the kubelet asks for it."""
        place = "/api/v1/namespaces/catalyst-system/serviceaccounts"
        await self.admin.post(place, json={"metadata": {"name": name}})
        body = {"spec": {"audiences": [audience], "expirationSeconds": 600}}
        answer = await self.admin.post(f"{place}/{name}/token", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["status"]["token"])

    async def start(self, token: str) -> httpx.Response:
        return await self.client.post(f"{BASE}/start", headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Pods]:
    async with (
        opened(tmp_path) as bench,
        Issuer.open() as issuer,
        KubeApi.open(tmp_path / "kube", Clock()) as kube,
    ):
        kube.kubeconfig(tmp_path / "kubeconfig")
        chosen = settings(bench, tmp_path, issuer)
        accounts = ServiceAccounts(audience=AUDIENCE, may_act=(TRUSTED,))
        chosen = chosen.model_copy(
            update={
                "kubernetes": Kubernetes(kubeconfig=tmp_path / "kubeconfig"),
                "api": chosen.api.model_copy(update={"service_accounts": accounts}),
            }
        )
        server = serve.server(chosen, serve.opening(chosen, "127.0.0.1", False), insecure=False)
        headers = {"Authorization": f"Bearer {admin_token(tmp_path / 'kubeconfig')}"}
        async with (
            running(server) as url,
            httpx.AsyncClient(base_url=url, timeout=60.0) as client,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{kube.port}", headers=headers) as admin,
        ):
            await admin.post("/api/v1/namespaces", json={"metadata": {"name": "catalyst-system"}})
            yield Pods(bench, kube, issuer, client, admin)


def admin_token(kubeconfig: Path) -> str:
    import yaml

    return str(yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"])


async def test_a_service_account_that_is_named_may_act_and_stands_in_the_event(pods: Pods) -> None:
    await pods.bench.worker()
    answer = await pods.start(await pods.token("catalyst-api", AUDIENCE))
    assert answer.status_code == 202, answer.text
    asked = read((await pods.bench.entries(REQUESTED))[0].raw)
    assert (asked.authtype, asked.authid) == ("service_account", TRUSTED)


async def test_a_token_for_another_audience_or_of_another_account_does_not_act(pods: Pods) -> None:
    elsewhere = await pods.start(await pods.token("catalyst-api", "vault"))
    assert (elsewhere.status_code, elsewhere.json()["error"]) == (401, "unauthorized")
    api_server = await pods.start(await pods.token("catalyst-api", "https://kubernetes.default.svc"))
    assert api_server.status_code == 401
    stranger = await pods.start(await pods.token("default", AUDIENCE))
    assert (stranger.status_code, stranger.json()["error"]) == (403, "forbidden")
    forged = (await pods.token("catalyst-api", AUDIENCE))[:-6] + "AAAAAA"
    assert (await pods.start(forged)).status_code == 401
    assert await pods.bench.entries(REQUESTED) == []


async def test_operators_are_known_beside_pods_by_their_own_issuer(pods: Pods) -> None:
    headers = {"Authorization": f"Bearer {pods.issuer.token()}"}
    assert (await pods.client.get(f"{BASE}/status", headers=headers)).status_code == 200
    wrong = {"Authorization": f"Bearer {pods.issuer.token(aud='elsewhere')}"}
    assert (await pods.client.get(f"{BASE}/status", headers=wrong)).status_code == 401


async def test_a_server_that_knows_no_audiences_is_not_believed(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says `authenticated` to any token of the cluster, and names no audience that it had checked."""
    token = await pods.token("catalyst-api", "vault")
    blind = {"status": {"authenticated": True, "user": {"username": TRUSTED}}}
    monkeypatch.setattr(pods.kube.api, "_review", lambda call: blind)
    assert (await pods.start(token)).status_code == 401
    assert await pods.bench.entries(REQUESTED) == []
