"""What an image holds, as CycloneDX 1.6: every Python distribution and every Debian package, read from the image.

    python image/sbom.py IMAGE > sbom.cdx.json

Needs a Docker engine. The image is asked, not the lock file: what was meant to be in it is not the point.
"""

from __future__ import annotations

import re
import sys

import docker
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

PYTHON = "import importlib.metadata as m; print('\\n'.join(d.name + ' ' + d.version for d in m.distributions()))"
DEBIAN = ["dpkg-query", "--show", "--showformat", "${source:Package} ${Package} ${Version} ${Architecture}\n"]


def python_components(listed: str) -> list[Component]:
    """`name version` a line -> components, by the names that an index knows them by (PEP 503)."""
    named = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in map(str.split, listed.splitlines())}
    return [_library("pypi", None, name, version) for name, version in sorted(named)]


def debian_components(listed: str) -> list[Component]:
    """`source package version architecture` a line -> components."""
    found = []
    for line in sorted(set(listed.splitlines())):
        _, package, version, architecture = line.split()
        found.append(_library("deb", "debian", package, version, {"arch": architecture}))
    return found


def _library(
    kind: str, namespace: str | None, name: str, version: str, more: dict[str, str] | None = None
) -> Component:
    purl = PackageURL(type=kind, namespace=namespace, name=name, version=version, qualifiers=more)
    return Component(type=ComponentType.LIBRARY, name=name, version=version, purl=purl, bom_ref=str(purl))


def bill(image: str) -> str:
    """The document. Raises docker.errors.DockerException when there is no engine, or no such image."""
    engine = docker.from_env()
    try:

        def said(*command: str) -> str:
            output: bytes = engine.containers.run(
                image, list(command[1:]), entrypoint=command[0], remove=True, network_disabled=True
            )
            return output.decode()

        parts = [*python_components(said("python3", "-c", PYTHON)), *debian_components(said(*DEBIAN))]
        identity: str = engine.images.get(image).id
    finally:
        engine.close()
    bom = Bom(components=parts)
    bom.metadata.component = Component(
        type=ComponentType.CONTAINER, name="catalyst-cutover", version=identity, bom_ref=identity
    )
    bom.register_dependency(bom.metadata.component, parts)
    return JsonV1Dot6(bom).output_as_string(indent=1)


if __name__ == "__main__":
    print(bill(sys.argv[1]))
