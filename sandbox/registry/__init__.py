"""OCI registries of the sandbox."""

from __future__ import annotations

from sandbox.registry.faults import Fault, Faults, Seen, Wrong
from sandbox.registry.server import Registry
from sandbox.registry.store import Store

__all__ = ["Fault", "Faults", "Registry", "Seen", "Store", "Wrong"]
