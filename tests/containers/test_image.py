"""The image as it is shipped: what is in it, what is not, and a whole cutover by workers that run in it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import docker
import pytest
from acceptance_scene import HOLD, ROOT, cutover
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from docker.models.containers import Container

from sandbox.box import Box

LOCKED_DOWN = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "network_mode": "none"}


def said(engine: docker.DockerClient, image: str, *command: str) -> str:
    """What a command in the image prints, locked down as the chart does it."""
    output: bytes = engine.containers.run(
        image, list(command[1:]), entrypoint=command[0], remove=True, tmpfs={"/tmp": ""}, **LOCKED_DOWN
    )
    return output.decode()


def test_the_command_runs_without_root_capabilities_network_or_a_writable_root(
    engine: docker.DockerClient, image: str
) -> None:
    assert "catalyst.cutover.requested" in said(engine, image, "cutover", "--help")
    assert said(engine, image, "id", "-u").strip() == "65532"


def test_git_and_nft_are_in_the_image(engine: docker.DockerClient, image: str) -> None:
    assert said(engine, image, "git", "--version").startswith("git version")
    assert said(engine, image, "nft", "--version").startswith("nftables")
    assert said(engine, image, "test", "-s", "/etc/ssl/certs/ca-certificates.crt") == ""


@pytest.mark.parametrize("absent", ["pip", "pip3", "curl", "wget", "gcc", "kubectl"])
def test_what_could_fetch_or_build_is_not_in_the_image(engine: docker.DockerClient, image: str, absent: str) -> None:
    assert said(engine, image, "sh", "-c", f"command -v {absent} || true") == ""


def test_the_sandbox_stays_outside(engine: docker.DockerClient, image: str) -> None:
    found = said(engine, image, "python3", "-c", "import importlib.util as u; print(u.find_spec('sandbox'))")
    assert found.strip() == "None"
    assert "  rehearse " not in said(engine, image, "cutover", "--help").partition("Exit codes")[0]


def test_every_command_of_the_image_loads(engine: docker.DockerClient, image: str) -> None:
    """An import that only the development environment satisfies would show here."""
    listed = said(engine, image, "cutover", "--help").partition("Commands:")[2].partition("Exit codes")[0]
    commands = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2:3].strip()]
    assert {"work", "request", "node-agent", "canary", "audit"} <= set(commands)
    script = " && ".join(f"cutover {command} --help >/dev/null" for command in commands)
    assert said(engine, image, "sh", "-c", script) == ""


def test_the_bill_of_materials_is_valid_and_names_what_is_there(engine: docker.DockerClient, image: str) -> None:
    made = subprocess.run(
        [sys.executable, "image/sbom.py", image], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made.stdout) is None
    names = {part["name"] for part in json.loads(made.stdout)["components"]}
    assert {"catalyst-cutover", "nats-py", "kubernetes-asyncio", "git", "nftables", "libc6"} <= names
    assert not {"pytest", "pip", "playwright"} & names


def test_it_stops_soon_when_asked(engine: docker.DockerClient, image: str, tmp_path: Path) -> None:
    """PID 1 gets SIGTERM from the kubelet; a worker that waits for its broker must heed it."""
    secret = tmp_path / "secret"
    secret.write_text("x", encoding="utf-8")
    (tmp_path / "settings.yaml").write_text(settings("nats://127.0.0.1:1"), encoding="utf-8")
    tmp_path.chmod(0o755)
    container = engine.containers.run(
        image, ["--config", "/etc/cutover/settings.yaml", "work"], detach=True,
        volumes={str(tmp_path): {"bind": "/etc/cutover", "mode": "ro"}}, tmpfs={"/tmp": ""}, **LOCKED_DOWN,
    )  # fmt: skip
    try:
        until_said(container, "broker")
        container.stop(timeout=50)  # then it would be killed, and its exit code 137
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 0, container.logs().decode()
    finally:
        container.remove(force=True)


def settings(nats: str) -> str:
    login = "{username: someone, password_file: /etc/cutover/secret}"
    return f"""
nats: {{url: "{nats}"}}
sovereign:
  fqdn: sovereign.test
  upstream_git: {{url: "https://github.com/openova-io/openova", branch: main}}
  gitea: {{url: "http://127.0.0.1:2", login: {login}}}
  harbor: {{url: "http://127.0.0.1:3", host: harbor.sovereign.test, login: {login}}}
"""


def until_said(container: Container, words: str, limit: float = 30.0) -> None:
    end = time.monotonic() + limit
    while words not in container.logs().decode():
        container.reload()
        assert container.status in ("created", "running"), container.logs().decode()
        assert time.monotonic() < end, container.logs().decode()
        time.sleep(0.1)


@asynccontextmanager
async def contained(engine: docker.DockerClient, image: str, box: Box) -> AsyncIterator[Container]:
    """A worker in the image, as root: it reads the box's secret files, and finds the box on the host's loopback."""
    directory = str(box.directory)

    def start() -> Container:
        return engine.containers.run(
            image,
            ["--config", str(box.settings_file), "work"],
            detach=True,
            user="0",
            network_mode="host",
            read_only=True,
            tmpfs={"/tmp": ""},
            volumes={directory: {"bind": directory, "mode": "ro"}},
            environment={"CUTOVER_WORKSPACE": "/tmp/workspace"},
        )

    container = await asyncio.to_thread(start)
    try:
        yield container
    finally:
        await asyncio.to_thread(container.remove, force=True)


async def test_workers_in_the_image_bring_a_whole_cutover_to_its_end(
    engine: docker.DockerClient, image: str, tmp_path: Path
) -> None:
    async with Box.open(tmp_path / "box", hold=HOLD) as box, contained(engine, image, box) as container:
        ended = await asyncio.to_thread(lambda: cutover("--config", str(box.settings_file), "request", "--watch"))
        assert ended.code == 0, ended.text + container.logs().decode()[-4000:]
        assert "cutoverComplete=true" in ended.text
