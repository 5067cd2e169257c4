"""A Sovereign on which Flux has to be pivoted: steps 5 to 7 one by one, taken back, and every write counted."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from step_by_step import Grounds, grounds

from sandbox import seed
from sandbox.box import Box
from sandbox.catalogue import GITOPS_UPSTREAM
from sandbox.controllers.oci import Credentials
from sandbox.description import GHCR_USER, PULL_LOGIN
from sandbox.kube.api import Answer, Request
from sandbox.scenarios import played
from sandbox.scenarios.flux import FLUX, SCENARIOS, SOURCE
from schemas.results import StepResult
from workers import robot
from workers.adapters.cluster import GIT_REPOSITORY, HELM_RELEASE, KUSTOMIZATION, POD, SECRET, Cluster, key_of
from workers.declared import reconcile
from workers.entrypoints import wiring
from workers.errors import Trouble, Wait

GIT, FIVE, SIX, SEVEN = "gitea-mirror", "flux-gitrepository-patch", "helmrepo-patches", "catalyst-api-env-patch"
BEFORE = (GIT, "harbor-projects", "harbor-prewarm", "registry-pivot")
PIVOTS = (FIVE, SIX, SEVEN)
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass
class Sovereign(Grounds):
    """A box, cut over as far as a test needs it."""

    results: dict[str, StepResult] = field(default_factory=dict)
    writes: Counter[str] = field(default_factory=Counter)
    why: str = ""
    """What the last failure said."""

    @property
    def cluster(self) -> Cluster:
        return self.world.cluster

    @property
    def gitea(self) -> str:
        """The repository on local Gitea's own disk."""
        return str(self.box.directory / "gitea" / "repositories" / "openova" / "openova.git")

    async def run(self, step: str, timeout: float = 60.0) -> StepResult:
        """One attempt."""
        sovereign = self.world.sovereign
        patient = sovereign.model_copy(update={"flux": sovereign.flux.model_copy(update={"timeout": timeout})})
        work = wiring.bound(step, replace(self.world, sovereign=patient))
        async with asyncio.timeout(300):
            result = await work(self.order(step, self.results), self.report)
        self.results[step] = result
        return result

    async def done(self, step: str) -> StepResult:
        """As the pool does: what waits is tried again."""
        for _ in range(20):
            try:
                return await self.run(step)
            except Wait:
                await asyncio.sleep(0.3)
        return await self.run(step)

    async def before(self, step: str) -> None:
        """Every step before this one has been done, and this one not since."""
        if step in self.results:
            await self.upstream_again()
        for each in (*BEFORE, *PIVOTS):
            if each == step:
                return
            if each not in self.results:
                await self.done(each)

    async def upstream_again(self) -> None:
        """Flux follows the mothership as on the first day, and local Gitea has what upstream has."""
        head = git(str(self.box.sources.repository), "rev-parse", f"refs/heads/{self.box.sources.branch}")
        git(self.gitea, "update-ref", "refs/heads/main", head)
        pull = seed.pull_secret("ghcr-pull", FLUX, dict.fromkeys(seed.PULL_HOSTS, _login(self.box)))
        await self.cluster.apply(SECRET, {"data": pull["data"], "type": pull["type"], "metadata": pull["metadata"]})
        spec = {"url": GITOPS_UPSTREAM, "secretRef": None, "ignore": seed.IGNORE}
        await self.cluster.patch(GIT_REPOSITORY, SOURCE, FLUX, {"spec": spec})
        wanted: dict[reconcile.Key, str | None] = {(FLUX, SOURCE): head}
        await reconcile.brought(self.cluster, GIT_REPOSITORY, wanted, 30, again=True)
        await reconcile.applied(self.cluster, await self.cluster.list(KUSTOMIZATION), head, 60)
        keys: dict[reconcile.Key, str | None] = {key_of(r): None for r in await self.cluster.list(HELM_RELEASE)}
        await reconcile.brought(self.cluster, HELM_RELEASE, keys, 60, again=False)
        for step in PIVOTS:
            self.results.pop(step, None)

    async def verdict(self, name: str, timeout: float = 60.0) -> str:
        """The reason with which the scenario's step ends; empty when it succeeds. Nothing is left behind."""
        scenario = SCENARIOS[name]
        async with played(self.box, scenario):
            return await self.reason(scenario.step, timeout)

    async def reason(self, step: str, timeout: float = 60.0) -> str:
        try:
            await self.run(step, timeout)
        except Trouble as error:
            self.why = error.message
            return error.reason
        return ""

    async def untouched(self, step: str) -> None:
        """A run of the step that writes nothing at all: no commit, no patch, no restart."""
        head, pods = await self.head(), await self.uids(POD)
        self.writes.clear()
        again = await self.run(step)
        assert (again.changes, again.summary[:13]) == (0, "nothing to do"), again.summary
        assert +self.writes == Counter(), f"{step} writes when there is nothing to do"
        assert await self.head() == head
        assert await self.uids(POD) == pods

    async def rotate(self, projects: list[str]) -> None:
        """What step 2 does when the stored login is gone or refused."""
        harbor = self.world.sovereign.harbor
        fresh = await self.world.harbor.robot(harbor.robot, projects)
        await robot.store(self.world, fresh)

    async def head(self, branch: str = "main") -> str:
        return git(self.gitea, "rev-parse", branch)

    async def uids(self, kind: Any) -> set[str]:
        return {o["metadata"]["uid"] for o in await self.cluster.list(kind)}

    async def flux_runs_again(self) -> None:
        await reconcile.applied(self.cluster, await self.cluster.list(KUSTOMIZATION), await self.head(), 60)


def _login(box: Box) -> Credentials:
    return Credentials(GHCR_USER, box.keyring.get(PULL_LOGIN))


def git(repository: str, *arguments: str) -> str:
    done = subprocess.run(["git", f"--git-dir={repository}", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@asynccontextmanager
async def prepared(directory: Path) -> AsyncIterator[Sovereign]:
    """A box up to the pivot, and every write of the workers to its API counted."""
    async with grounds(directory) as (box, world):
        found, plain = Sovereign(box, world), box.kube.api.answer

        def counted(request: Request) -> Answer:
            if request.method in WRITES and request.agent.startswith(world.sovereign.field_manager):
                found.writes[f"{request.method} {request.path}"] += 1
            return plain(request)

        box.kube.api.answer = counted  # type: ignore[method-assign]
        await found.before(FIVE)
        yield found
