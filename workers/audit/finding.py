"""What an audit finds: a string that names somebody else, or something that could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from schemas.base import Travels
from schemas.events import Audited

MOST = 500  # findings in one event, some 300 bytes each; a broker takes 1 MiB


class Severity(StrEnum):
    """What a finding means for independence."""

    TETHER = "tether"
    """The mothership holds it."""
    EXTERNAL = "external"
    """Somebody else outside does: it will not be served when egress is closed."""
    UNREADABLE = "unreadable"
    """Nobody knows. Never a pass."""
    NOTICE = "notice"
    """Worth knowing, holds nothing: a one-time matter, a public address in a setting."""


COUNTING = frozenset({Severity.TETHER, Severity.EXTERNAL, Severity.UNREADABLE})
"""What makes an audit not clean."""


@dataclass(frozen=True, slots=True)
class Tether:
    """One of the eight kinds, who pulls on it, and what cuts it."""

    number: int
    title: str
    puller: str
    cut_by: str


GIT = Tether(1, "Git source", "source-controller", "flux-gitrepository-patch")
MIRRORS = Tether(2, "containerd mirrors", "containerd", "registry-pivot")
CHARTS = Tether(3, "chart source", "source-controller", "helmrepo-patches")
API = Tether(4, "catalyst-api", "catalyst-api", "catalyst-api-env-patch")
PULL_SECRETS = Tether(5, "pull credentials", "kubelet, source-controller", "helmrepo-patches")
PACKAGES = Tether(6, "Crossplane package", "crossplane", "helmrepo-patches")
IMAGES = Tether(7, "Catalyst image", "containerd", "harbor-prewarm and registry-pivot")
SYSTEM = Tether(8, "operating system mirror", "apt, at first boot", "nothing: used once, when a node is made")
AGENT = Tether(
    7,
    "node agent's image",
    "containerd of a node that joins",
    "nodeAgent.image.repository of the chart: the local copy",
)
OTHER = Tether(0, "other external host", "", "whoever owns it")
PROXY = Tether(
    0, "egress proxy", "whoever is told to use it", "whoever owns it: what is outside is not needed any more"
)
VEILED = Tether(
    0,
    "proxy out of sight",
    "whoever is told to use it",
    "its name in sovereign.proof.proxies (HOST:PORT), so that the proof tries it; or its owner: a plain value, or none",
)
"""A proxy whose address stands where nobody here reads it, a Secret above all: the proof could not try it."""
CUT = range(1, 8)
"""The tethers that a cutover cuts. 8 was used once; 0, whatever else leads outside, is told and forbids nothing."""
TETHERS = (GIT, MIRRORS, CHARTS, API, PULL_SECRETS, PACKAGES, IMAGES, SYSTEM)


class Finding(Travels):
    """One string, or one thing that could not be read."""

    tether: int
    """1 to 8 as ADR-0002 counts them; 0 for any other."""
    title: str
    severity: Severity
    kind: str
    namespace: str = ""
    name: str
    field: str
    host: str = ""
    """The name that stands there, or what went wrong in reading."""
    puller: str
    owner: str = ""
    """Who declares the object: what would bring the string back."""
    cut_by: str

    @property
    def forbids(self) -> bool:
        """Does it stand between the Sovereign and completion? Tethers 1 to 7 do, and what nobody could read."""
        return self.severity is Severity.UNREADABLE or (self.severity in COUNTING and self.tether in CUT)

    @property
    def place(self) -> str:
        """`HelmRepository flux-system/bp-cilium`."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    def __str__(self) -> str:
        return f"{self.severity} {self.tether or '-'} {self.place} {self.field}: {self.host}"


@dataclass(frozen=True, slots=True)
class Audit:
    """All that one scan found."""

    at: datetime
    findings: tuple[Finding, ...]

    @property
    def counting(self) -> tuple[Finding, ...]:
        """What stands between this Sovereign and its name."""
        return tuple(f for f in self.findings if f.severity in COUNTING)

    @property
    def clean(self) -> bool:
        """Nothing ties it, and everything could be read."""
        return not self.counting

    @property
    def unreadable(self) -> tuple[Finding, ...]:
        """What nobody knows."""
        return tuple(f for f in self.findings if f.severity is Severity.UNREADABLE)

    def left(self, *numbers: int) -> tuple[Finding, ...]:
        """What counts among these tethers."""
        return tuple(f for f in self.counting if f.tether in numbers)

    def fact(self, signer: str = "") -> Audited:
        """As the journal keeps it: what counts, the worst of it when that is too much; notices are for people only.

        What forbids completion comes first of all: when none of that is listed, none of it was left out."""
        worst = sorted(self.counting, key=lambda f: (not f.forbids, f.severity is Severity.EXTERNAL))
        found = tuple(f.model_dump(mode="json", exclude_defaults=True) for f in worst[:MOST])
        return Audited(findings=found, clean=self.clean, omitted=len(worst) - len(found), signer=signer)


READABLE = "make it readable: grant the verb, start the agent, install the CRD"


def unread(tether: Tether, kind: str, name: str, why: object, cut_by: str = READABLE) -> Finding:
    """Something nobody could look at."""
    return Finding(
        tether=tether.number,
        title=tether.title,
        severity=Severity.UNREADABLE,
        kind=kind,
        name=name,
        field="not read",
        host=str(why)[:300],
        puller=tether.puller,
        cut_by=cut_by,
    )
