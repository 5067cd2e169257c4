"""The data of every event of a cutover. The envelope around them is CloudEvents 1.0 (`events.envelope`).

Inputs (what someone asks for) are lenient about fields they do not know; facts (what our workers wrote) are not.
"""

from __future__ import annotations

from typing import Any

from pydantic import AwareDatetime, Field

from schemas.base import Arrives, Travels
from schemas.progress import Progress


class Requested(Arrives):
    """Someone asks for a cutover. `{}` is enough."""

    operator: str | None = None
    """Who asks, in words for people. The entitled identity is `authid` of the envelope."""
    reason: str | None = None
    unless_complete: bool = False
    """Refuse when the cutover is complete: whoever asks does not want it done again."""
    preflight: bool | None = None
    """The whole plan is made before anything is written. Unsaid: refuse when it finds what a person must mend.
    True: refuse also for what may pass by itself, or could not be read. False: do not ask."""


class CancelRequested(Arrives):
    """Someone asks to stop at the next safe point."""

    run: str | None = None
    operator: str | None = None
    reason: str | None = None


class Login(Arrives):
    """Someone has logged in. With auto-fire on, the first operator's login starts its grace period.

    Who it was is `authid` of the envelope; a login without one arms nothing."""

    operator: str | None = None
    """Who, in words for people."""
    roles: tuple[str, ...] = ()
    """Realm roles of the verified token."""


class Trigger(Arrives):
    """Do one step. A trigger that names no run means the active or else the last one."""

    run: str | None = None
    step: str | None = None
    after: int | None = None
    """Stream sequence of the fact that made us emit it; absent in a hand-made trigger."""
    reason: str | None = None
    """Why somebody wants it done again."""


class Accepted(Travels):
    """A request was taken up: a run began."""

    operator: str
    reason: str | None = None
    request: int
    """Stream sequence of the request."""
    steps: tuple[str, ...]


class AutoFireArmed(Travels):
    """The first operator's login started the grace period; at its end a cutover begins by itself."""

    login: int
    """Stream sequence of the login."""
    operator: str
    login_at: AwareDatetime
    """When the broker stored the login; never what the login says of itself."""
    grace_seconds: float
    fires_at: AwareDatetime


class AutoFireDisarmed(Travels):
    """Auto-fire was cancelled while its grace period ran: it never fires on this Sovereign."""

    login: int
    operator: str
    reason: str | None = None
    request: int | None = None
    """Stream sequence of the cancel; absent when the setting was switched off."""


class StepStarted(Travels):
    """A worker claimed a step. The sequence of this event is the fencing token."""

    step: str
    worker: str
    trigger: int
    """Stream sequence of the trigger that is being served."""
    after: int | None = None
    lease_seconds: float


class StepProgress(Travels):
    """The worker is alive and this far; also the renewal of its lease."""

    step: str
    worker: str
    token: int
    progress: Progress


class StepWaiting(Travels):
    """The step will be tried again by itself; nobody need act."""

    step: str
    worker: str
    token: int
    reason: str
    message: str
    after_seconds: float
    tries: int = Field(ge=1)


class StepSucceeded(Travels):
    """The step did what it should and read back that it did."""

    step: str
    worker: str
    token: int
    result: dict[str, Any]
    """The step's own result model, `schemas.results`."""


class StepFailed(Travels):
    """A person must act. `reason` is a stable CamelCase word."""

    step: str
    worker: str
    token: int
    reason: str
    message: str


class Cancelled(Travels):
    """The run was stopped on request."""

    operator: str
    reason: str | None = None
    request: int


class Completed(Travels):
    """Every step succeeded in this run and the proof is the newest of them."""

    evidence_digest: str
    """SHA-256 over the run's events so far, in order."""
    rehearsal: bool
    """True when the hold was shortened: the Sovereign works, but this is not the proof."""


class Failed(Travels):
    """The run ended at a step that a person must look at."""

    step: str
    reason: str
    message: str


class Audited(Travels):
    """A scan for tethers: what still names the mothership."""

    findings: tuple[dict[str, Any], ...]
    clean: bool
    omitted: int = 0
    """Findings beyond those listed: one event must fit into one message. The worst are listed first."""
    signer: str = ""
    """Id of the key that signs this log's certificates: one signed by another key does not belong to it."""


class Rejected(Travels):
    """A message that was not acted upon: who sent what where, and why not. Its bytes are kept."""

    subject: str
    sequence: int
    reason: str
    message: str
    original_base64: str
    """The first 64 KiB of the message as it came."""
