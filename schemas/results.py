"""What each step hands over when it succeeded: the evidence, in words that a reader of the log understands.

`changes` is how many things the step changed; 0 means that it found nothing to do.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from schemas.base import Travels


class StepResult(Travels):
    """Common part: how much changed, and one line for people."""

    changes: int = Field(ge=0)
    summary: str


class GitMirrored(StepResult):
    """Step 1. Every upstream head and tag stands in local Gitea at the same SHA or a local descendant."""

    branch: str
    upstream_sha: str
    local_sha: str
    mirrored_at: datetime
    refs: int
    refs_changed: int
    ahead: tuple[str, ...] = ()
    """Branches that carry local commits and were left alone."""
    notices: tuple[str, ...] = ()


class ProjectsReady(StepResult):
    """Step 2. Every project exists with the wanted kind and visibility."""

    projects: tuple[str, ...]
    created: tuple[str, ...]


class Prewarmed(StepResult):
    """Step 3. Every digest is served by local Harbor, its body hashed and equal."""

    artifacts: int
    digests: int
    bytes_total: int
    bytes_moved: int
    references: dict[str, str]
    """Reference as the cluster spells it -> digest that local Harbor serves."""
    reasons: dict[str, tuple[str, ...]]
    """Reference -> why it is on the list."""
    places: dict[str, str] = Field(default_factory=dict)
    """Reference -> `repository:tag` or `repository@digest` of local Harbor that stands for it."""
    notices: tuple[str, ...] = ()


class NodesPivoted(StepResult):
    """Step 4. Every node acknowledged after a live local pull and a refused upstream pull."""

    nodes: dict[str, str]
    """Node name -> digest of the registry configuration it acknowledged."""
    local_only_reference: str
    upstream_only_reference: str


class GitRepositoryPivoted(StepResult):
    """Step 5. Flux serves a revision that exists only in local Gitea."""

    url: str
    revision: str
    previous_url: str


class SourcesPivoted(StepResult):
    """Step 6. Every chart and package source is local in Git and live; each chart was fetched again."""

    helm_repositories: int
    oci_repositories: int
    packages: int
    charts_fetched: int
    pull_secrets: int
    commit: str
    third_parties: tuple[str, ...] = ()
    """Sources that are neither the mothership's nor local, left as they are: step 8 refuses them unless excepted."""


class CatalystApiPivoted(StepResult):
    """Step 7. The running Pod itself says that it uses the local repository."""

    values: dict[str, str]
    pod: str
    commit: str


class Canary(Travels):
    """One canary's finding: from where, to which host, and whether it got through."""

    node: str
    network: str
    """`pod` or `host`."""
    host: str
    reached: bool
    detail: str = ""
    sample: str = ""
    """Which look it was: `before`, `bite`, a number during the hold, `last`, `after`."""


class CanaryCount(Travels):
    """How many canaries of one network asked for one host in one sample, and how many reached it."""

    sample: str
    network: str
    """`host`, `pod`, or `pod/<namespace>` where policies of others stand."""
    host: str
    asked: int
    reached: int


class EgressProven(StepResult):
    """Step 8. Egress was blocked, the block bit, and nothing broke while everything was made to work."""

    held_seconds: float
    required_seconds: float
    rehearsal: bool
    """True when the hold was shortened: such a result is never the proof."""
    means: tuple[str, ...]
    blocked_hosts: tuple[str, ...]
    before: tuple[CanaryCount, ...]
    during: tuple[CanaryCount, ...]
    """The first sample under the block and the last one."""
    after: tuple[CanaryCount, ...]
    exceptions: tuple[Canary, ...] = ()
    """Every finding of any sample, those between included, that was not as it had to be."""
    samples: int = 0
    """How many samples were taken under the block."""
    forced: tuple[str, ...]
    """What was made to work under the block, one line each."""
    restarts: int
    """How often a gap restarted the clock."""
    blocked_at: datetime
    lifted_at: datetime


RESULTS: dict[str, type[StepResult]] = {
    "gitea-mirror": GitMirrored,
    "harbor-projects": ProjectsReady,
    "harbor-prewarm": Prewarmed,
    "registry-pivot": NodesPivoted,
    "flux-gitrepository-patch": GitRepositoryPivoted,
    "helmrepo-patches": SourcesPivoted,
    "catalyst-api-env-patch": CatalystApiPivoted,
    "egress-block-test": EgressProven,
}
"""Step slug -> the model of its result."""
