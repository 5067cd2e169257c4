"""The subjects of the stream: which is an input, which a trigger, which the journal."""

from __future__ import annotations

import re
from typing import Final

from events.flow import BY_NUMBER, Step

ROOT: Final = "catalyst.cutover"
ALL: Final = f"{ROOT}.>"
REQUESTED: Final = f"{ROOT}.requested"
CANCEL: Final = f"{ROOT}.cancel"
LOGIN: Final = f"{ROOT}.login"
JOURNAL: Final = f"{ROOT}.journal"
REJECTED: Final = f"{ROOT}.rejected"
NODES: Final = f"{ROOT}.node.*"
STREAM: Final = "CATALYST_CUTOVER"


def trigger(step: Step) -> str:
    """`catalyst.cutover.step.3`."""
    return f"{ROOT}.step.{step.number}"


def node(name: str) -> str:
    """Subject of one node's reports. Node names may hold dots, subject tokens may not."""
    return f"{ROOT}.node.{name.replace('.', '_')}"


def step_of(subject: str) -> Step | None:
    """The step that a trigger subject names."""
    match = re.fullmatch(re.escape(ROOT) + r"\.step\.(\d+)", subject)
    return BY_NUMBER.get(int(match[1])) if match else None
