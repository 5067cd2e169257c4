"""How to reach the broker, and what the stream shall be. Secrets are read from files only."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from events.subjects import STREAM


class Broker(BaseModel):
    """How to reach the broker and what the stream shall be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    credentials_file: Path | None = None
    nkey_seed_file: Path | None = None
    ca_file: Path | None = None
    stream: str = STREAM
    replicas: int = Field(default=1, ge=1, le=5)
    max_bytes: int = Field(default=1 << 30, gt=0)
    duplicate_window: float = Field(default=30 * 86400.0, gt=0)
    ack_wait: float = Field(default=30.0, gt=0)
    """Seconds after which a trigger whose worker fell silent is delivered to another one."""
    budget: float = Field(default=20.0, gt=0)
    """Seconds for which an append is retried while the broker is away."""
    inbox_prefix: str = "_INBOX"


def login(broker: Broker) -> dict[str, Any]:
    """Connection options of whatever credentials the settings name. Secrets are read from files only."""
    options: dict[str, Any] = {}
    if broker.user:
        options["user"] = broker.user
    if broker.password_file:
        options["password"] = broker.password_file.read_text(encoding="utf-8").strip()
    if broker.token_file:
        options["token"] = broker.token_file.read_text(encoding="utf-8").strip()
    if broker.credentials_file:
        options["user_credentials"] = str(broker.credentials_file)
    if broker.nkey_seed_file:
        options["nkeys_seed"] = str(broker.nkey_seed_file)
    if broker.ca_file:
        options["tls"] = ssl.create_default_context(cafile=str(broker.ca_file))
    return options
