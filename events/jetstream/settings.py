"""How to reach the broker, and what the stream shall be. Secrets are read from files only."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import nkeys  # type: ignore[import-not-found,import-untyped,unused-ignore]
from pydantic import BaseModel, ConfigDict, Field, field_validator

from events.subjects import STREAM

SCHEMES: Final = ("nats", "tls", "ws", "wss")


class Broker(BaseModel):
    """How to reach the broker and what the stream shall be."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

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

    @field_validator("url")
    @classmethod
    def _an_address_and_no_login(cls, url: str) -> str:
        """It is repeated in logs and errors, so it may hold nothing secret; nor does a complaint about it."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("no address of a broker, its host or port is none; write nats://host:4222") from None
        if "@" in url:
            raise ValueError("a login has no place in an address; name user and password_file, or another file")
        if parts.scheme not in SCHEMES or not parts.hostname or port == 0 or parts.query:
            raise ValueError(f"no address of a broker; write nats://host:4222 (or {', '.join(SCHEMES[1:])})")
        return url


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


def unusable(broker: Broker) -> list[str]:
    """What stands in the files that the settings name and is no such thing; one line each, without what it is."""
    lines = []
    for name, look in _LOOKS.items():
        path: Path | None = getattr(broker, name)
        try:
            if path is not None:
                look(path)
        except (OSError, ValueError, nkeys.NkeysError, ssl.SSLError):
            lines.append(f"nats.{name}: {path}: {_WANTED[name]}")
    return lines


def _seed(path: Path) -> None:
    nkeys.from_seed(bytearray(path.read_bytes().strip())).wipe()


def _text(path: Path) -> None:
    if not path.read_text(encoding="utf-8").strip():
        raise ValueError


def _credentials(path: Path) -> None:
    """As `nsc` writes them (docs.nats.io, "Credentials File")."""
    lines = [line.strip() for line in path.read_bytes().splitlines()]
    marks = [place for place, line in enumerate(lines) if b"BEGIN USER NKEY SEED" in line]
    if not marks or not any(b"BEGIN NATS USER JWT" in line for line in lines) or marks[0] + 1 == len(lines):
        raise ValueError
    nkeys.from_seed(bytearray(lines[marks[0] + 1])).wipe()


def _authorities(path: Path) -> None:
    ssl.create_default_context(cafile=str(path))


_LOOKS: Final = {
    "nkey_seed_file": _seed, "credentials_file": _credentials, "password_file": _text, "token_file": _text,
    "ca_file": _authorities,
}  # fmt: skip
_WANTED: Final = {
    "nkey_seed_file": "no seed of an NKey (SU...)",
    "credentials_file": "no credentials as nsc writes them (a JWT and a seed)",
    "password_file": "no text, or empty",
    "token_file": "no text, or empty",
    "ca_file": "no certificates in PEM",
}
