"""What Harbor keeps in its database: one JSON document beside the blobs, so that it can be opened again."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, Field


class Project(BaseModel):
    """A project; with `registry_id` it is a proxy cache."""

    project_id: int
    name: str
    metadata: dict[str, str]
    registry_id: int | None = None
    storage_limit: int = -1
    creation_time: datetime
    update_time: datetime

    @property
    def public(self) -> bool:
        """Whether anybody may pull."""
        return self.metadata.get("public") == "true"


class UpstreamRegistry(BaseModel):
    """A registry endpoint that projects may be a proxy of."""

    id: int
    name: str
    url: str
    type: str
    insecure: bool = False
    description: str = ""
    access_key: str = ""
    access_secret: str = ""
    creation_time: datetime
    update_time: datetime


class Robot(BaseModel):
    """A robot account. The secret is given out once."""

    id: int
    name: str
    secret: str
    level: str
    duration: int
    description: str = ""
    disable: bool = False
    permissions: list[dict[str, object]]
    creation_time: datetime
    update_time: datetime


class Retention(BaseModel):
    """A tag retention policy of one project, with its rules as they were given."""

    id: int
    project_id: int
    policy: dict[str, object]
    days: int | None = None
    """Kept when pulled within so many days; None when the rules say something else."""


class ArtifactRecord(BaseModel):
    """When an artifact came and was last used."""

    id: int
    push_time: datetime
    pull_time: datetime | None = None


class RepositoryRecord(BaseModel):
    """A repository's row."""

    id: int
    creation_time: datetime
    pull_count: int = 0


class CachedIndex(BaseModel):
    """The original bytes of an index of a proxy project. Harbor keeps them in Redis, for seven days."""

    content: str
    media_type: str
    digest: str
    until: datetime


class PendingIndex(BaseModel):
    """An index that waits for its children before it is stored, rewritten."""

    repository: str
    reference: str
    digest: str
    until: datetime


class State(BaseModel):
    """Everything but the blobs."""

    next_id: int = 1
    projects: dict[str, Project] = Field(default_factory=dict)
    registries: dict[int, UpstreamRegistry] = Field(default_factory=dict)
    robots: dict[int, Robot] = Field(default_factory=dict)
    retentions: dict[int, Retention] = Field(default_factory=dict)
    artifacts: dict[str, ArtifactRecord] = Field(default_factory=dict)
    """`repository@digest` -> its record."""
    repositories: dict[str, RepositoryRecord] = Field(default_factory=dict)
    cache: dict[str, CachedIndex] = Field(default_factory=dict)
    """`repository@digest` -> original index."""
    pending: list[PendingIndex] = Field(default_factory=list)
    retained_on: str = ""
    """Day of the last retention run."""

    def take_id(self) -> int:
        """A number that was never used."""
        self.next_id += 1
        return self.next_id - 1

    @classmethod
    def load(cls, path: Path) -> State:
        """The state in the file; a fresh one when there is no file."""
        return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        draft = path.with_suffix(".draft")
        draft.write_text(self.model_dump_json(), encoding="utf-8")
        os.replace(draft, path)
