"""The sandbox's Gitea and Git host answer as the real ones do where a cutover would notice."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from sandbox.gitea import Gitea
from sandbox.githost import GitHost
from sandbox.serving import serving


@pytest.fixture
async def api(place) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{place.gitea_port}/api/v1"
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"token {place.token}"}) as client:
        yield client


async def outcome(*command: str, at: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=at,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": os.devnull},
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


def signed(place) -> str:
    return place.local.url.replace("http://", f"http://gitea_admin:{place.token}@")


async def test_a_mirror_push_is_refused_for_pull_requests_alone(before) -> None:
    code, said = await outcome("git", "push", "--mirror", signed(before), at=before.bare)
    assert code != 0
    assert said.count("deny updating a hidden ref") == 3
    assert set(before.heads()) >= {"refs/heads/main", "refs/tags/v1.0.0"}
    assert not any(ref.startswith("refs/pull/") for ref in before.heads())


async def test_nobody_reads_without_signing_in(before, tmp_path: Path) -> None:
    code, said = await outcome("git", "ls-remote", before.local.url, at=tmp_path)
    assert code != 0
    assert "could not read Username" in said


async def test_a_pull_mirror_is_read_only(place) -> None:
    place.gitea.create("openova", "openova", pull_mirror=True)
    code, said = await outcome("git", "push", signed(place), "main", at=place.bare)
    assert code != 0
    assert "403" in said


async def test_the_upstream_host_shows_pull_requests_and_takes_no_push(place, tmp_path: Path) -> None:
    _, listed = await outcome("git", "ls-remote", place.upstream.url, at=tmp_path)
    assert "refs/pull/1/head" in listed
    code, _ = await outcome("git", "push", place.upstream.url, "main:refs/heads/other", at=place.bare)
    assert code != 0


async def test_api_statuses_are_gitea_s(place, api: httpx.AsyncClient) -> None:
    async def status(method: str, path: str, body: object = None, **more: object) -> int:
        return (await api.request(method, path, json=body, **more)).status_code  # type: ignore[arg-type]

    assert await status("GET", "/orgs/openova") == 404
    assert await status("POST", "/orgs/openova/repos", {"name": "openova"}) == 404
    assert await status("POST", "/orgs", {"username": "openova"}) == 201
    assert await status("POST", "/orgs", {"username": "openova"}) == 422
    assert await status("POST", "/orgs", {"username": "gitea_admin"}) == 422
    assert await status("POST", "/orgs/openova/repos", {"name": "openova"}) == 201
    assert await status("POST", "/orgs/openova/repos", {"name": "openova"}) == 409
    assert await status("GET", "/version", headers={"Authorization": ""}) == 403
    assert await status("GET", "/version", headers={"Authorization": "token wrong"}) == 401


async def test_a_default_branch_that_is_not_there_is_silently_not_set(before, api: httpx.AsyncClient) -> None:
    await before.git.mirror(before.upstream, before.local)
    answer = await api.patch("/repos/openova/openova", json={"default_branch": "nowhere"})
    assert answer.status_code == 200
    assert answer.json()["default_branch"] == "main"


async def test_a_token_is_made_with_a_password_only_and_shown_once(place, api: httpx.AsyncClient) -> None:
    path, body = "/users/gitea_admin/tokens", {"name": "flux", "scopes": ["read:repository"]}
    assert (await api.post(path, json=body)).status_code == 401
    basic = httpx.BasicAuth("gitea_admin", "not-for-git")
    plain = {"Authorization": ""}
    async with httpx.AsyncClient(base_url=api.base_url, auth=basic) as client:
        made = await client.post(path, json=body)
        assert made.status_code == 201
        assert len(made.json()["sha1"]) == 40
        assert (await client.post(path, json=body)).status_code == 400
        assert (await client.post(path, json={"name": "none"})).status_code == 400
        assert all(not token["sha1"] for token in (await client.get(path)).json())
        token = made.json()["sha1"]
        asked = await client.get("/repos/a/b", auth=None, headers=plain | {"Authorization": f"token {token}"})
        assert asked.status_code == 404
        assert (await client.delete(f"{path}/flux")).status_code == 204
        assert (await client.delete(f"{path}/flux")).status_code == 404


async def test_a_gitea_is_the_same_after_it_was_closed(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    async with Gitea.open(before.gitea.directory) as again, serving(again.app) as port:
        local = before.local.url.replace(str(before.gitea_port), str(port))
        code, said = await outcome(
            "git", "ls-remote", local.replace("//", f"//gitea_admin:{before.token}@"), at=before.bare
        )
    assert code == 0
    assert "refs/heads/main" in said


async def test_a_packed_request_body_is_understood(place) -> None:
    sha = (await place.git.ls_remote(place.upstream))["refs/heads/main"]
    body = gzip.compress(f"0032want {sha}\n00000009done\n".encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/x-git-upload-pack-request"}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{place.upstream.url}/git-upload-pack", content=body, headers=headers)
    assert answer.status_code == 200
    assert b"PACK" in answer.content


async def test_git_ends_when_its_client_leaves(place) -> None:
    place.upstream_commits("main", "big", "".join(f"{n * 7919:x}\n" for n in range(400_000)))
    sha = (await place.git.ls_remote(place.upstream))["refs/heads/main"]
    reader, writer = await asyncio.open_connection("127.0.0.1", place.host_port)
    body = f"0032want {sha}\n00000009done\n".encode()
    head = (
        f"POST /openova-io/openova/git-upload-pack HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/x-git-upload-pack-request\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await reader.readexactly(100)  # The rest stays unread: Git is held by a full pipe.
    assert backends()
    writer.transport.abort()
    for _ in range(100):
        if not backends():
            break
        await asyncio.sleep(0.05)
    assert not backends()


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/.git/x/info/refs", "/a/..%2f..%2fb/info/refs", "/a/b/HEAD"])
async def test_nothing_outside_of_the_repositories_is_served(tmp_path: Path, path: str) -> None:
    host = GitHost(tmp_path)
    async with serving(host.app) as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}?service=git-upload-pack")
    assert answer.status_code == 404


def backends() -> list[psutil.Process]:
    """Living git processes below this one."""
    return [
        process
        for process in psutil.Process(os.getpid()).children(recursive=True)
        if "git" in process.name() and process.status() != psutil.STATUS_ZOMBIE
    ]
