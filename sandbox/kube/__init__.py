"""A Kubernetes API server: in this process, on loopback, held to recorded answers of a real one."""

from __future__ import annotations

from sandbox.kube.local import KubeApi, LocalClient

__all__ = ["KubeApi", "LocalClient"]
