"""The two words a step has for trouble. Anything else that is raised is a blip or a defect.

A reason is a stable CamelCase word, fit for an alert. A message says what was tried, what came back, and
what to do; it never carries a secret.
"""

from __future__ import annotations


class Trouble(Exception):
    """What `Wait` and `Stuck` share."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class Wait(Trouble):
    """Nobody need act. Ask again in `after` seconds; the pool bounds how often and how long."""

    def __init__(self, reason: str, message: str, *, after: float = 5.0) -> None:
        super().__init__(reason, message)
        self.after = after


class Stuck(Trouble):
    """A person must act. The run fails at this step."""
