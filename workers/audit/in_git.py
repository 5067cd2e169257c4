"""What local Gitea declares: a string that stands there comes back at the next reconcile, wherever it was cut live."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyio import to_thread

from workers.adapters.cluster import KUSTOMIZATION, Object, key_of
from workers.adapters.git import Remote
from workers.adapters.yaml_quick import NotYaml, parsed
from workers.audit import finding as kinds
from workers.audit.finding import Finding, unread
from workers.audit.rules import ADDRESS, Judge
from workers.declared.files import Root, listings, manifests, substituted
from workers.declared.repository import root_of
from workers.errors import Trouble
from workers.sovereign import Sovereign
from workers.supply.sources import PACKAGE_KINDS, resolved_locally
from workers.world import World

_SOURCE = re.compile(rf"\bkind[\"']?\s*:\s*[\"']?(?:{'|'.join(ADDRESS)})\b")
_BASES = ("resources", "bases", "components")
_REMOTE = re.compile(r"^(?:\w+::)?(?:\w+://)?(?:[^/@]+@)?(\[[\da-fA-F:]+\](?::\d+)?|[\w.-]+(?::\d+)?)(?=[/:])")
"""What kustomize fetches itself, as it is spelled: `https://HOST/…`, `git::https://…`, `git@HOST:…`, `HOST/…`."""
_ODD = (AttributeError, LookupError, OSError, TypeError, ValueError)
"""What reading raises where somebody wrote a text for a mapping, a number for a list, a name that is no path."""
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.[A-Za-z]{2,}(:\d+)?")


async def in_git(world: World) -> list[Finding]:
    """Sources that the manifests in local Gitea name, as far as Flux applies them. None while nothing was mirrored."""
    sovereign = world.sovereign
    gitea = sovereign.gitea
    where = f"{gitea.organisation}/{gitea.repository}"
    try:
        info = await world.gitea.repository(gitea.organisation, gitea.repository)
        if info is None or info.empty:
            return []
        roots = [root_of(k) for k in await world.cluster.list(KUSTOMIZATION) if follows(k, sovereign)]
        url = f"{gitea.url.rstrip('/')}/{where}.git"
        remote = Remote(url, gitea.login.username, gitea.login.password(), name="Gitea")
        judge = replace(Judge.of(sovereign, None, False), fetched_here=await _fetched_here(world))
        async with world.git.checkout(remote, sovereign.upstream_git.branch) as tree:
            return await to_thread.run_sync(declared_below, tree.path, roots, judge)
    except Trouble as error:
        return [unread(kinds.GIT, "Git repository", where, error)]


async def _fetched_here(world: World) -> frozenset[str]:
    """Packages whose names stay upstream's, in Git too, and that Crossplane gets from local Harbor all the same."""
    live = [obj for kind in PACKAGE_KINDS if await world.cluster.served(kind) for obj in await world.cluster.list(kind)]
    return frozenset(str(obj["spec"]["package"]) for obj in live if resolved_locally(obj, world.sovereign))


def follows(kustomization: Object, sovereign: Sovereign) -> bool:
    """True when it applies what the Sovereign's own GitRepository brings."""
    source = (kustomization.get("spec") or {}).get("sourceRef") or {}
    namespace = source.get("namespace") or key_of(kustomization)[0]
    wanted = ("GitRepository", sovereign.flux.git_repository, sovereign.flux.namespace)
    return (source.get("kind"), source.get("name"), namespace) == wanted


def declared_below(checkout: Path, roots: Sequence[Root], judge: Judge) -> list[Finding]:
    """Findings of every manifest that a root applies, each file once."""
    found: dict[tuple[str, str], Finding] = {}
    for root in roots:
        try:
            _below(checkout, root, judge, found)
        except _ODD as error:
            found[root.path, ""] = _odd("kustomization", f"at or below {root.path}", error)
        except Trouble as trouble:
            found[root.path, ""] = unread(kinds.GIT, "Git kustomization", f"at or below {root.path}", trouble)
    return list(found.values())


def _below(checkout: Path, root: Root, judge: Judge, found: dict[tuple[str, str], Finding]) -> None:
    """Put what is found into `found`: whatever comes after it."""
    for file, place in manifests(checkout, root):
        name = file.relative_to(checkout.resolve()).as_posix()
        found |= {(name, str(each)): each for each in _of_file(file, name, place, judge)}
    for file, said in listings(checkout, root):
        name = file.relative_to(checkout.resolve()).as_posix()
        found |= {(name, str(each)): each for each in _fetched_by(file, said, name, judge)}


def _fetched_by(file: Path, said: Mapping[str, Any], name: str, judge: Judge) -> Iterator[Finding]:
    """What a kustomization.yaml has kustomize-controller fetch at every build, past any GitRepository."""
    for key in _BASES:
        for each in map(str, said.get(key) or ()):
            host = "" if (file.parent / each).exists() else _host_of(each)
            if (severity := judge.weight(each, host)) is not None:
                yield Finding(
                    tether=kinds.GIT.number, title="remote base", severity=severity, kind="Git kustomization",
                    name=name, field=key, host=host, puller="kustomize-controller", owner=name,
                    cut_by="its owner: a copy of it in local Gitea",
                )  # fmt: skip


def _host_of(base: str) -> str:
    """HOST[:PORT] of a remote base; empty for a path of the repository, which may hold dots too."""
    found = _REMOTE.match(base)
    remote = found is not None and ("://" in base or "@" in base or _NAME.fullmatch(found[1]))
    return found[1] if found and remote else ""


def _of_file(file: Path, name: str, place: Root, judge: Judge) -> Iterator[Finding]:
    text = file.read_text(encoding="utf-8", errors="replace")
    if not _SOURCE.search(text):
        return
    try:
        documents = parsed(substituted(text, place.substitute))
    except NotYaml as error:
        yield unread(kinds.GIT, "Git file", name, error)
        return
    except _ODD as error:
        yield _odd("file", name, error)
        return
    for document in (single for each in documents for single in _singles(each)):
        try:
            yield from [f.model_copy(update={"kind": f"Git {f.kind}", "owner": name}) for f in _of_one(document, judge)]
        except _ODD as error:
            yield _odd(document["kind"], name, error)


def _of_one(document: Any, judge: Judge) -> Iterator[Finding]:
    kind = document.get("kind") if isinstance(document, Mapping) else None
    if isinstance(kind, str) and kind in ADDRESS and (document.get("metadata") or {}).get("name"):
        yield from judge.source(document)


def _odd(what: str, name: str, error: Exception) -> Finding:
    """What has not the shape of its kind: Flux will say what it thinks of that; what it names nobody here knows."""
    why = f"it has not the shape of its kind ({type(error).__name__})"
    return unread(kinds.GIT, f"Git {what}", name, why, "whoever wrote it there")


def _singles(document: Any) -> Iterator[Any]:
    """The items of a List, as kustomize takes them; anything else is itself."""
    items = document.get("items") if isinstance(document, Mapping) else None
    listed = isinstance(items, list) and str(document.get("kind", "")).endswith("List")
    yield from items if listed and items else [document]
