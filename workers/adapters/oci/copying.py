"""What is to be copied, how far it is, and which word a step has for what went wrong. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from workers.adapters.oci.closure import Closure
from workers.adapters.oci.manifest import BadManifest, Descriptor
from workers.adapters.oci.places import What, local_repository, proxied_projects
from workers.adapters.oci.reference import Reference
from workers.adapters.oci.streams import Heard
from workers.adapters.oci.trouble import NO_SPACE, OVER_QUOTA, Denied, Missing, Unavailable, WrongBytes
from workers.errors import Stuck, Trouble, Wait
from workers.sovereign import Sovereign

PATIENCE = 15.0  # seconds to ask the pool for when a registry does not say
BUDGET_PATIENCE = 900.0  # seconds to wait for a rate limit whose window does not say when it moves on


@dataclass(frozen=True, slots=True)
class Wanted:
    """One reference and the repository of local Harbor where it lives."""

    reference: Reference
    what: What
    repository: str
    pulled: bool = False
    """The repository is in a proxy project: it fills itself when it is pulled from, and takes no push."""
    optional: bool = False
    """Nobody is known to use it: that no upstream has it is told, and is no error."""

    @property
    def tag(self) -> str:
        """What it is called locally. What is pinned by digest gets a tag too: collectors delete untagged ones."""
        digest = self.reference.digest
        return f"kept-{digest.removeprefix('sha256:')[:40]}" if digest else self.reference.pin

    @property
    def name(self) -> str:
        """As local Harbor's database knows what readers ask for: `repository:tag`, or `repository@digest`."""
        digest = self.reference.digest
        return f"{self.repository}@{digest}" if digest else f"{self.repository}:{self.tag}"


def placed(sovereign: Sovereign, reference: Reference, what: What, *, optional: bool = False) -> Wanted | None:
    """Where the reference lives in local Harbor; None when nobody mapped its host."""
    repository = local_repository(sovereign, reference, what)
    if repository is None:
        return None
    pulled = repository.partition("/")[0] in proxied_projects(sovereign)
    return Wanted(reference, what, repository, pulled, optional)


@dataclass(frozen=True, slots=True)
class Item:
    """One reference, read whole, and what of it is not here yet."""

    wanted: Wanted
    closure: Closure
    missing: tuple[Descriptor, ...] = ()
    here: bool = False
    """Local Harbor has its tag, which is written last. The proof reads the rest; until then it is not read."""


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """All that is wanted, and what of it must be moved."""

    items: tuple[Item, ...]
    known: frozenset[str] = frozenset()
    """Blobs that some local repository has: they are mounted, not moved."""
    postponed: tuple[Wait, ...] = ()
    """What an upstream does not give now. The rest is copied first, and then the first of these is raised."""
    absent: tuple[tuple[Wanted, str], ...] = ()
    """Optional ones that every place they may come from says it does not have, and in whose words."""

    @property
    def todo(self) -> tuple[Item, ...]:
        """What is not whole in local Harbor."""
        return tuple(i for i in self.items if not i.here)

    @property
    def bytes_to_move(self) -> int:
        """Bytes of the blobs that no local repository has, each once."""
        sizes = {b.digest: b.size for i in self.todo for b in i.missing if b.digest not in self.known}
        return sum(sizes.values())

    @property
    def digests(self) -> dict[str, int]:
        """Every digest of every item, and its size."""
        sizes = {b.digest: b.size for i in self.items for b in i.closure.blobs}
        return sizes | {p.manifest.digest: len(p.manifest.content) for i in self.items for p in i.closure.parts}


@dataclass(frozen=True, slots=True)
class Proof:
    """What was read back and hashed; and what had its tag and lost something since, to be copied again."""

    items: tuple[Item, ...]
    lost: tuple[Wanted, ...] = ()


@dataclass(slots=True)
class Meter:
    """How far the copying is. What it shows never runs backwards, though an attempt may begin again."""

    bytes_total: int
    items_total: int
    items_done: int = 0
    moved: int = 0
    """Bytes of blobs that are whole in local Harbor."""
    _passing: dict[str, int] = field(default_factory=dict)
    _shown: int = 0
    _begun: float = field(default_factory=monotonic)

    def heard(self, digest: str) -> Heard:
        """For one blob: told how much of it has passed."""

        def note(passed: int) -> None:
            self._passing[digest] = passed

        return note

    def arrived(self, blob: Descriptor) -> None:
        """The blob is whole in local Harbor."""
        self._passing.pop(blob.digest, None)
        self.moved += blob.size

    @property
    def shown(self) -> int:
        """Bytes done, what is on its way included."""
        now = min(self.moved + sum(self._passing.values()), self.bytes_total)
        self._shown = max(self._shown, now)
        return self._shown

    @property
    def rate(self) -> float:
        """Bytes a second since the copying began."""
        return self.shown / max(monotonic() - self._begun, 0.001)


def over_budget(host: str, remaining: int, needed: int, first: object) -> Wait:
    """What a step says when a registry will give fewer images now than are needed."""
    return Wait(
        "UpstreamBudget",
        f"{host} gives {remaining} more manifests for now, and {needed} images need one or more each; {first} and "
        "those after it wait. "
        f"A login for {host} raises its limit",
        after=BUDGET_PATIENCE,
    )


def upstream_verdict(reference: object, troubles: Sequence[Exception]) -> Trouble:
    """What a step says when no place gave what was asked: wait if any of them may still, else a person acts."""
    said = "; ".join(dict.fromkeys(str(t) for t in troubles))
    if waits := [t for t in troubles if isinstance(t, Unavailable)]:
        after = max((t.after or 0.0 for t in waits), default=0.0)
        return Wait("UpstreamUnavailable", f"{reference}: {said}", after=after or PATIENCE)
    if any(isinstance(t, WrongBytes) for t in troubles):
        return Stuck("DigestMismatch", f"{reference}: {said}; refused, look at what is in between")
    if any(isinstance(t, BadManifest) for t in troubles):
        return Stuck("ManifestUnreadable", f"{reference}: {said}")
    if any(isinstance(t, Denied) for t in troubles):
        return Stuck("UpstreamDenied", f"{reference}: {said}; give its upstream a login that may pull it")
    if troubles and all(isinstance(t, Missing) for t in troubles):
        return Stuck("ReferenceNotFound", f"{reference}: {said}; correct it where it is declared")
    return Stuck("UpstreamRefused", f"{reference}: {said}")


def local_verdict(repository: str, trouble: Exception) -> Trouble:
    """What a step says when local Harbor does not do what it is asked."""
    if NO_SPACE in str(trouble) or OVER_QUOTA in str(trouble):
        project = repository.partition("/")[0]
        return Stuck("HarborFull", f"{repository}: {trouble}; give Harbor's storage, or project {project}, more room")
    if isinstance(trouble, Unavailable):
        return Wait("HarborUnavailable", f"{repository}: {trouble}", after=trouble.after or PATIENCE)
    if isinstance(trouble, Denied):
        project = repository.partition("/")[0]
        advice = f"check harbor.login, that project {project} exists, and its quota"
        return Stuck("HarborDenied", f"{repository}: {trouble}; {advice}")
    if isinstance(trouble, Missing):
        return Wait("NotServed", f"{repository}: local Harbor does not serve what was pushed: {trouble}")
    if isinstance(trouble, WrongBytes):
        return Stuck("LocalCopyCorrupt", f"{repository}: {trouble}; check Harbor's storage")
    return Stuck("HarborRefused", f"{repository}: {trouble}")
