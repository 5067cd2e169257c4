"""Image references as they stand in manifests, read as containerd reads them (distribution/reference)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workers.hosts import HUB, hub

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d+)?")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class BadReference(ValueError):
    """The text is no reference to one image."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One image, chart or package. With a digest, the tag says nothing more."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """`nats` -> docker.io/library/nats:latest. Raises BadReference on placeholders and nonsense."""
        name, _, digest = text.strip().partition("@")
        if digest and not _DIGEST.fullmatch(digest):
            raise BadReference(f"{text!r}: not a sha256 digest")
        host, repository = _split_host(name)
        repository, tag = _split_tag(repository)
        if host == HUB and "/" not in repository:
            repository = f"library/{repository}"
        if not _HOST.fullmatch(host) or not _REPOSITORY.fullmatch(repository):
            raise BadReference(f"{text!r}: not an image reference")
        if tag is not None and not _TAG.fullmatch(tag):
            raise BadReference(f"{text!r}: not a tag")
        return cls(host, repository, tag if tag or digest else "latest", digest or None)

    @property
    def pin(self) -> str:
        """What names the manifest: the digest when there is one."""
        return self.digest or self.tag or "latest"

    @property
    def name(self) -> str:
        """Host and repository."""
        return f"{self.host}/{self.repository}"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    host, repository = (first, rest) if named else (HUB, name)
    return hub(host), repository


def _split_tag(repository: str) -> tuple[str, str | None]:
    name, colon, tag = repository.rpartition(":")
    return (name, tag) if colon else (repository, None)


def chart_tag(version: str) -> str:
    """A chart's version as a tag: `+` is no character of tags (helm.sh/docs/topics/registries)."""
    return version.replace("+", "_")
