"""Harbor of the sandbox: API v2.0 and OCI distribution, with hosted and proxy projects."""

from __future__ import annotations

from sandbox.harbor.server import Harbor

__all__ = ["Harbor"]
