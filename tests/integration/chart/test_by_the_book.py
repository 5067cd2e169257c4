"""The runbook's `kubectl` and `helm` commands and its manifests, typed in order against an API server.

`helm` is Helm's own library, given what the line says. Without a kubelet nothing can be executed in a Pod: for `exec`
the Deployment must be there, and what is typed in it is typed by tests/acceptance/test_runbook.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tls_front
import yaml
from chart_matrix import API, EMBEDDED
from helm_release import Helm

from sandbox import blueprint
from sandbox.blueprint import CHART, NAMESPACE, RELEASE
from sandbox.clock import Clock
from sandbox.kube import KubeApi

ROOT = CHART.parent
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
KUBECTL = Path(sys.executable).parent / "kubectl"
SYSTEMS = ("flux-system", "crossplane-system", "catalyst-system")
NOTED = re.compile(r"^  (\S+)/(\S+)/(\S+)$", re.M)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", RUNBOOK, re.M | re.S)


def typing() -> list[str]:
    """Lines that are not ours: `cutover ...` is typed elsewhere."""
    return [line for block in blocks("sh") for line in block.splitlines() if not line.startswith("cutover ")]


@pytest.fixture
async def kubeconfig(tmp_path: Path) -> AsyncIterator[Path]:
    """Of the sandbox's API server: on a shared one the release's names may be somebody else's."""
    if not KUBECTL.exists():
        pytest.skip("no kubectl in this environment")
    async with KubeApi.open(tmp_path / "kube", Clock()) as kube, tls_front.front(kube.port, tmp_path) as port:
        for name in SYSTEMS:
            await kube.local.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        yield tls_front.kubeconfig(tmp_path / "kubeconfig", port, kube.token())


async def kubectl(config: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        str(KUBECTL), *arguments, cwd=ROOT, env={**os.environ, "KUBECONFIG": str(config)},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, (arguments, err.decode())
    return out.decode()


async def execute(config: Path, arguments: list[str]) -> None:
    """`kubectl ... exec deploy/NAME -- COMMAND`"""
    place = arguments.index("exec")
    target, _, *command = arguments[place + 1 :]
    found = json.loads(await kubectl(config, *arguments[:place], "get", target, "--output", "json"))
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert {"name": "CUTOVER_CONFIG", "value": "/etc/cutover/settings.yaml"} in container["env"]
    ours = [line for block in blocks("sh") for line in block.splitlines()]
    assert shlex.join(command) in ours, "tests/acceptance/test_runbook.py types those that stand alone"


async def helm(config: Path, arguments: list[str]) -> None:
    """`helm install NAME chart --namespace N --values FILE`, `helm uninstall NAME --namespace N`"""
    verb, release, *more = arguments
    options = dict(zip(more[-4::2], more[-3::2], strict=True)) if verb == "install" else dict([more])
    assert (release, options["--namespace"]) == (RELEASE, NAMESPACE)
    if verb == "uninstall":
        await Helm(config).uninstall()
        return
    assert (ROOT / more[0]).resolve() == CHART
    assert f"`{options['--values']}`" in RUNBOOK
    (values,) = blocks("yaml")
    await Helm(config).install(yaml.safe_load(values))


async def test_the_runbooks_installation_is_typed_in_order(kubeconfig: Path) -> None:
    verbs = []
    for line in typing():
        program, *arguments = shlex.split(line)
        if program == "helm":
            await helm(kubeconfig, arguments)
        elif "exec" in arguments:
            await execute(kubeconfig, arguments)
        else:
            assert program == "kubectl", line
            await kubectl(kubeconfig, *arguments)
        verbs.append(program)
    assert verbs.count("helm") == 2
    assert verbs.count("kubectl") >= 4
    left = json.loads(await kubectl(kubeconfig, "get", "secrets", "--all-namespaces", "--output", "json"))["items"]
    kept = {o["metadata"]["name"] for o in left}
    assert {"cutover-gitea", "cutover-nats-node-agent"} <= kept
    assert not [name for name in kept if name.startswith("sh.helm.")]


async def test_an_api_server_takes_the_slot(kubeconfig: Path, tmp_path: Path) -> None:
    """As Flux applies it, the Sovereign's name put in."""
    slot = tmp_path / "slot.yaml"
    text = (CHART / "examples/06a-bp-self-sovereign-cutover.yaml").read_text(encoding="utf-8")
    slot.write_text(text.replace("${SOVEREIGN_FQDN}", "sovereign.test"), encoding="utf-8")
    options = ("--server-side", "--dry-run=server", "--validate=strict")
    said = await kubectl(kubeconfig, "apply", *options, "--filename", str(slot))
    assert said.count("(server dry run)") == 3, said


def test_the_secrets_of_the_example_are_those_that_the_chart_waits_for() -> None:
    text = (CHART / "examples/secrets.yaml").read_text(encoding="utf-8")
    made = {
        (o["metadata"]["namespace"], o["metadata"]["name"], key)
        for o in yaml.safe_load_all(text)
        if o
        for key in o["stringData"]
    }
    assert made == set(NOTED.findall(blueprint.notes()))
    assert made < set(NOTED.findall(blueprint.notes({**EMBEDDED, **API})))  # more values, more Secrets
