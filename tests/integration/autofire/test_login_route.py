"""A login over HTTP reaches the log only where it may arm auto-fire, and only as what the token proves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from api_bench import BASE, Door, running, settings
from histories import accepted, draft
from pool_bench import opened

from events.envelope import admit
from events.journal import Journal
from events.subjects import LOGIN
from sandbox.oidc import VIEWER, Issuer
from workers.entrypoints.api import serve
from workers.entrypoints.settings import AutoFire


@asynccontextmanager
async def door(directory: Path, *, enabled: bool, acts: str = "sovereign-admin") -> AsyncIterator[Door]:
    async with opened(directory) as bench, Issuer.open() as issuer:
        chosen = settings(bench, directory, issuer).model_copy(update={"auto_fire": AutoFire(enabled=enabled)})
        assert chosen.api.identity is not None
        identity = chosen.api.identity.model_copy(update={"action_roles": (acts,)})
        chosen = chosen.model_copy(update={"api": chosen.api.model_copy(update={"identity": identity})})
        server = serve.server(chosen, serve.opening(chosen, "127.0.0.1", False), insecure=False)
        async with running(server) as url, httpx.AsyncClient(base_url=url, timeout=60.0) as client:
            yield Door(bench, issuer, url, client, server)


async def test_an_operators_login_is_an_event_in_his_name_and_a_viewers_is_none(tmp_path: Path) -> None:
    async with door(tmp_path, enabled=True) as at:
        for token in (at.issuer.token(VIEWER), at.issuer.token()):
            assert (await at.post("/login", token=token)).status_code == 202
        assert (await at.client.post(f"{BASE}/login")).status_code == 401
        (entry,) = await at.bench.entries(LOGIN)
        event, data = admit(entry.raw, "login")
        assert event.authtype == "user"
        assert (event.authid or "").startswith("operator")
        assert data.model_dump()["roles"] == ("sovereign-admin",)


@pytest.mark.parametrize("why", ["off", "a cutover was asked for before", "may not start one by hand"])
async def test_a_login_that_can_arm_nothing_is_not_told(tmp_path: Path, why: str) -> None:
    acts = "owner" if why == "may not start one by hand" else "sovereign-admin"
    async with door(tmp_path, enabled=why != "off", acts=acts) as at:
        token = at.issuer.token(realm_access={"roles": ["sovereign-admin", "sovereign-viewer"]})
        if why == "may not start one by hand":
            assert (await at.post("/start", token=token)).status_code == 403
        elif why != "off":
            await Journal(at.bench.stream).append(draft(accepted(), 1))
            while not (await at.get("/status")).json()["runId"]:
                pass
        answer = await at.post("/login", token=token)
        assert (answer.status_code, answer.json()) == (202, {"autoFire": ""})
        assert await at.bench.entries(LOGIN) == []
