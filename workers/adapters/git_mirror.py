"""What a mirror does to each ref, decided before anything is pushed. Nothing is forced, nothing removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

HEADS = "refs/heads/"
TAGS = "refs/tags/"
ASIDE = "upstream/"
"""An upstream head or tag that cannot stand under its own name is kept under this prefix."""

IsAncestor = Callable[[str, str], bool]
"""Whether the first commit is the second, or one of its ancestors."""


@dataclass(frozen=True)
class MirrorReport:
    """What a mirror found and did. Refs are full names; `ahead` are names of branches.

    `upstream` and `local` are as `ls-remote` gave them, `local` after the push.
    """

    refs: int
    changed: tuple[str, ...]
    ahead: tuple[str, ...]
    upstream: dict[str, str]
    local: dict[str, str]
    notices: tuple[str, ...]


@dataclass
class MirrorPlan:
    """Ref -> SHA to push, and what was left alone and why."""

    push: dict[str, str] = field(default_factory=dict)
    ahead: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def plan(upstream: Mapping[str, str], local: Mapping[str, str], is_ancestor: IsAncestor) -> MirrorPlan:
    """Create what is missing, move forward what only lags, leave alone what has a life of its own."""
    made = MirrorPlan()
    for ref, sha in sorted(upstream.items()):
        have = local.get(ref)
        if have == sha:
            continue
        if have is None:
            blocked = _blocked(ref, local)
            if blocked:
                made.notices.append(f"{ref} cannot stand beside local {blocked}, which it is part of or contains")
            else:
                made.push[ref] = sha
        elif ref.startswith(TAGS):
            made.notices.append(f"{ref} differs locally and was left alone")
            _aside(made, ref, sha, upstream, local, lambda _old, _new: False)
        elif is_ancestor(have, sha):
            made.push[ref] = sha
        elif is_ancestor(sha, have):
            made.ahead.append(ref.removeprefix(HEADS))
        else:
            made.notices.append(f"{ref} has local commits and new ones upstream; the local branch was left alone")
            _aside(made, ref, sha, upstream, local, is_ancestor)
    return made


def covered(ref: str, sha: str, local: Mapping[str, str], ahead: frozenset[str]) -> bool:
    """Whether local Git holds an upstream ref: the same SHA, a descendant, or aside."""
    return local.get(ref) == sha or (ref in local and ref.removeprefix(HEADS) in ahead) or local.get(aside(ref)) == sha


def aside(ref: str) -> str:
    """Where an upstream ref is kept when its own name is taken: `refs/heads/upstream/main`."""
    kind = HEADS if ref.startswith(HEADS) else TAGS
    return f"{kind}{ASIDE}{ref.removeprefix(kind)}"


def _aside(
    made: MirrorPlan,
    ref: str,
    sha: str,
    upstream: Mapping[str, str],
    local: Mapping[str, str],
    is_ancestor: IsAncestor,
) -> None:
    name = aside(ref)
    have = local.get(name)
    if have == sha:
        return
    if name in upstream or _blocked(name, upstream) or _blocked(name, local):
        made.notices.append(f"{name} is taken: what is new in {ref} upstream is not kept locally")
    elif have is None or is_ancestor(have, sha):
        made.push[name] = sha
    else:
        made.notices.append(f"{name} holds another history than upstream has now; it was left alone")


def _blocked(ref: str, refs: Mapping[str, str]) -> str | None:
    """A ref that is a directory of this one, or the other way round: Git cannot hold both."""
    parts = ref.split("/")
    parents = {"/".join(parts[:count]) for count in range(3, len(parts))}
    return next((other for other in refs if other in parents or other.startswith(f"{ref}/")), None)
