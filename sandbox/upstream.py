"""Fill the upstream registries with what the Sovereign runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sandbox.images import Publisher
from sandbox.registry import Registry

CHART_HOST = "ghcr.io"
CHART_PREFIX = "openova-io"


def seed(
    registries: Mapping[str, Registry],
    charts: Iterable[tuple[str, str, bytes]],
    images: Iterable[str],
    packages: Iterable[str],
) -> None:
    """Every chart (name, version, archive), image and package is there, each on the host that it names.

    What is there already stays, so that a kept sandbox opens quickly and a staged change survives.
    """
    for name, version, archive in charts:
        store = registries[CHART_HOST].store
        repository = f"{CHART_PREFIX}/{name}"
        if store.manifest(repository, version.replace("+", "_")) is None:
            Publisher(store, repository).chart(name, version, archive)
    for reference in images:
        _publish(registries, reference, is_package=False)
    for reference in packages:
        _publish(registries, reference, is_package=True)


def _publish(registries: Mapping[str, Registry], reference: str, *, is_package: bool) -> None:
    host, repository, tag = place(reference)
    store = registries[host].store
    if store.manifest(repository, tag) is None:
        publisher = Publisher(store, repository)
        (publisher.package if is_package else publisher.image)(reference, tag)


def place(reference: str) -> tuple[str, str, str]:
    """Host, repository and tag of a reference that names its host and tag in full."""
    host, _, rest = reference.partition("/")
    repository, _, tag = rest.rpartition(":")
    return host, repository, tag
