"""What a mirror does to each ref, decided before anything is pushed. Nothing is forced, nothing removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    made, taken = MirrorPlan(), _Names(upstream, local)
    for ref, sha in sorted(upstream.items()):
        have = local.get(ref)
        if have == sha:
            continue
        if have is None:
            if blocked := taken.by(ref):
                made.notices.append(f"{ref} cannot stand beside local {blocked}, which it is part of or contains")
                _aside(made, ref, sha, taken, is_ancestor)
            else:
                made.push[ref] = sha
        elif ref.startswith(TAGS):
            made.notices.append(f"{ref} differs locally and was left alone")
            _aside(made, ref, sha, taken, lambda _old, _new: False)
        elif is_ancestor(have, sha):
            made.push[ref] = sha
        elif is_ancestor(sha, have):
            made.ahead.append(ref.removeprefix(HEADS))
        else:
            made.notices.append(f"{ref} has local commits and new ones upstream; the local branch was left alone")
            _aside(made, ref, sha, taken, is_ancestor)
    return made


def covered(ref: str, sha: str, local: Mapping[str, str], ahead: frozenset[str]) -> bool:
    """Whether local Git holds an upstream ref: the same SHA, a descendant, or aside."""
    if local.get(ref) == sha or (ref in local and ref.removeprefix(HEADS) in ahead):
        return True
    return any(local.get(name) == sha for name in (aside(ref), further(ref, sha)))


def aside(ref: str) -> str:
    """Where an upstream ref is kept when its own name is taken: `refs/heads/upstream/main`."""
    kind = HEADS if ref.startswith(HEADS) else TAGS
    return f"{kind}{ASIDE}{ref.removeprefix(kind)}"


def further(ref: str, sha: str) -> str:
    """Where it is kept when that name is taken too, by what upstream had before it rewrote its history once more."""
    kind = HEADS if ref.startswith(HEADS) else TAGS
    return f"{kind}upstream-{sha[:12]}/{ref.removeprefix(kind)}"


class _Names:
    """Which names can still be given: a ref cannot stand where another one has its directory, or below another."""

    def __init__(self, upstream: Mapping[str, str], local: Mapping[str, str]) -> None:
        self.local = local
        self._upstream = upstream
        self._below = [(refs, _directories(refs)) for refs in (local, upstream)]

    def by(self, ref: str) -> str | None:
        """The local ref that this one is part of, or that is part of it."""
        return _in_the_way(ref, *self._below[0])

    def free(self, ref: str) -> bool:
        """Whether upstream will never want it, and nothing local is in the way; it may stand there itself."""
        return ref not in self._upstream and not any(_in_the_way(ref, *known) for known in self._below)


def _directories(refs: Iterable[str]) -> dict[str, str]:
    """Directory -> a ref in it. Once for all: among thousands of refs, each looking at each takes minutes."""
    return {parent: ref for ref in refs for parent in _parents(ref)}


def _parents(ref: str) -> list[str]:
    parts = ref.split("/")
    return ["/".join(parts[:count]) for count in range(3, len(parts))]


def _in_the_way(ref: str, refs: Mapping[str, str], directories: Mapping[str, str]) -> str | None:
    return directories.get(ref) or next((parent for parent in _parents(ref) if parent in refs), None)


def _aside(made: MirrorPlan, ref: str, sha: str, taken: _Names, is_ancestor: IsAncestor) -> None:
    """Keep it under the first name that can take it without force."""
    for name in (aside(ref), further(ref, sha)):
        have = taken.local.get(name)
        if have == sha:
            return
        if taken.free(name) and (have is None or is_ancestor(have, sha)):
            made.push[name] = sha
            return
    made.notices.append(f"no name is left beside {ref}: what is new in it upstream is not kept locally")
