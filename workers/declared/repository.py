"""One GitRepository of the cluster, the local Gitea repository behind it, and commits to that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from workers import flux
from workers.adapters.cluster import GIT_REPOSITORY, KUSTOMIZATION, Object, key_of
from workers.adapters.git import Remote
from workers.declared.changes import Change
from workers.declared.files import Edits, Root, plan_edits
from workers.declared.reconcile import Key, applied, brought
from workers.errors import Stuck
from workers.sovereign import Sovereign
from workers.world import Order, World

if TYPE_CHECKING:
    from workers.adapters.cluster import Cluster


HEADS = "refs/heads/"


@dataclass(frozen=True, slots=True)
class Repository:
    """What Flux follows: a GitRepository, its branch, and the Kustomizations that apply it."""

    key: Key
    url: str
    branch: str
    kustomizations: tuple[Object, ...]

    @property
    def roots(self) -> tuple[Root, ...]:
        """What the Kustomizations apply."""
        return tuple(root_of(k) for k in self.kustomizations)


@dataclass(frozen=True, slots=True)
class Pushed:
    """The branch's head in local Gitea, and whether this call moved it."""

    commit: str
    new: bool
    files: int


def root_of(kustomization: Object) -> Root:
    """The part of a checkout that a Flux Kustomization applies."""
    spec = kustomization.get("spec") or {}
    substitute = (spec.get("postBuild") or {}).get("substitute") or {}
    return Root(
        path=str(spec.get("path") or ".").lstrip("/"),
        namespace=spec.get("targetNamespace"),
        substitute={str(k): str(v) for k, v in substitute.items()},
        prefix=str(spec.get("namePrefix") or ""),
        suffix=str(spec.get("nameSuffix") or ""),
        patches=tuple(spec.get("patches") or ()),
    )


def cluster_url(sovereign: Sovereign) -> str:
    """The repository in local Gitea, as Flux and catalyst-api shall name it."""
    gitea = sovereign.gitea
    return f"{gitea.cluster_url.rstrip('/')}/{gitea.organisation}/{gitea.repository}"


def remote_of(sovereign: Sovereign, url: str) -> Remote:
    """How workers reach a repository that the cluster names by `url`. Raises Stuck when it is not local."""
    gitea = sovereign.gitea
    base = gitea.cluster_url.rstrip("/") + "/"
    if not url.startswith(base):
        message = f"{url} is not in local Gitea ({base}), so it cannot be changed from here"
        raise Stuck("DeclaredElsewhere", message)
    wire = f"{gitea.url.rstrip('/')}/{url.removeprefix(base)}"
    return Remote(url=wire, username=gitea.login.username, password=gitea.login.password())


def branch_of(source: Object) -> str | None:
    """The branch that a GitRepository follows; None when it is pinned to a tag, a range or a commit."""
    ref = (source.get("spec") or {}).get("ref") or {}
    if any(ref.get(key) for key in ("commit", "semver", "tag")):
        return None
    if name := str(ref.get("name") or ""):
        return name.removeprefix(HEADS) if name.startswith(HEADS) else None
    return str(ref.get("branch") or "master")


async def repository(cluster: Cluster, key: Key, kustomizations: Iterable[Object]) -> Repository:
    """The GitRepository of that name and the Kustomizations that follow it.

    Raises Stuck when it is absent, or follows no branch: Flux would not see a commit that is made to one.
    """
    found = await cluster.get(GIT_REPOSITORY, key[1], key[0])
    if found is None:
        raise Stuck("SourceAbsent", f"there is no GitRepository {'/'.join(key)}; check flux.git_repository")
    branch = branch_of(found)
    if branch is None:
        ref = ", ".join(f"{k} {v}" for k, v in (found["spec"].get("ref") or {}).items())
        message = f"GitRepository {'/'.join(key)} is pinned ({ref}), so no commit to a branch would reach Flux"
        raise Stuck("SourcePinned", f"{message}; let it follow a branch, then run the step again")
    mine = tuple(k for k in kustomizations if flux.source_of(k) == key)
    return Repository(key, str(found["spec"]["url"]), branch, mine)


async def owners(cluster: Cluster, objects: Iterable[Object], main: Key) -> dict[Key, tuple[Repository, list[Object]]]:
    """Which repository declares which of these objects, by the labels of kustomize-controller.

    An object whose Kustomization is gone or follows no GitRepository raises Stuck: nobody here can change it.
    """
    kustomizations = {key_of(k): k for k in await cluster.list(KUSTOMIZATION)}
    grouped: dict[Key, list[Object]] = {}
    for obj in objects:
        key = flux.owner(obj, flux.OWNED_BY_KUSTOMIZATION)
        if key is None:
            continue
        source = flux.source_of(kustomizations[key]) if key in kustomizations else None
        if source is None:
            whose = f"{obj['kind']} {'/'.join(key_of(obj))} belongs to Kustomization {'/'.join(key)}"
            raise Stuck("DeclaredElsewhere", f"{whose}, which is gone or follows no GitRepository")
        grouped.setdefault(source, []).append(obj)
    grouped.setdefault(main, [])
    return {key: (await repository(cluster, key, kustomizations.values()), objs) for key, objs in grouped.items()}


async def push(
    world: World,
    order: Order,
    repo: Repository,
    changes: Iterable[Change],
    subject: str,
    *,
    also: Callable[[Path], Mapping[Path, str]] | None = None,
) -> Pushed:
    """Git declares every change; one commit when something differed, none otherwise.

    `also` gives further files (absolute path -> text) from the checkout. Raises Stuck `DeclaredElsewhere`
    for a change whose manifest is not below any Kustomization's path.
    """
    wanted = list(changes)
    async with world.git.checkout(remote_of(world.sovereign, repo.url), repo.branch) as tree:
        plan: Edits = await to_thread.run_sync(plan_edits, tree.path, repo.roots, wanted)
        if plan.undeclared:
            raise Stuck("DeclaredElsewhere", _undeclared(repo, plan))
        files = {**plan.texts, **(also(tree.path) if also else {})}
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        message = f"{subject}\n\nRun {order.run}, step {order.step}."
        commit = await tree.commit(message) if files else None
        if commit is not None:
            await tree.push()
        return Pushed(commit or tree.head, commit is not None, len(files) if commit else 0)


def _undeclared(repo: Repository, plan: Edits) -> str:
    paths = ", ".join(sorted(root.path for root in repo.roots)) or "no path at all"
    names = ", ".join(str(change) for change in plan.undeclared[:5])
    listed = {line for k in repo.kustomizations for line in flux.inventory(k)}
    if not any(_line(change) in listed for change in plan.undeclared):
        return (
            f"{names}: its labels name a Kustomization of {'/'.join(repo.key)}, but no manifest there declares it and "
            "no inventory lists it; labels that were copied with it are to be taken away, then run the step again"
        )
    return (
        f"{names}: applied by Flux from {'/'.join(repo.key)} ({paths} on {repo.branch}), but no manifest there "
        "declares it; it may be generated or come from a remote base. Change it there, then run the step again"
    )


def _line(change: Change) -> str:
    api = f"{change.kind.group}/any" if change.kind.group else "any"
    meta = {"namespace": change.namespace, "name": change.name}
    return flux.inventory_line({"apiVersion": api, "kind": change.kind.kind, "metadata": meta})


async def reconcile(
    world: World, repo: Repository, commit: str, *, must: frozenset[Key] = frozenset(), again: bool = True
) -> None:
    """Flux serves the commit and every Kustomization has applied it; with `again`, after we asked."""
    timeout = world.sovereign.flux.timeout
    await brought(world.cluster, GIT_REPOSITORY, {repo.key: commit}, timeout, again=again)
    await applied(world.cluster, repo.kustomizations, commit, timeout, must=must, again=again)
