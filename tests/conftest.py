"""For every test: no verdict depends on how fast the machine is. Hypothesis would give each example 200 ms."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
