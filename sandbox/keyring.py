"""A Sovereign's secrets: made at random when it is made, kept in files that only their owner reads."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


class Keyring:
    """Secrets by name, one file each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, name: str) -> Path:
        """Where the secret is kept, made first when it is new."""
        path = self._directory / name
        if not path.exists():
            # Harbor's rule for passwords holds everywhere: upper, lower, digit.
            self.put(name, "Sb1" + secrets.token_hex(16))
        return path

    def get(self, name: str) -> str:
        """The secret itself."""
        return self.path(name).read_text(encoding="utf-8").strip()

    def put(self, name: str, value: str) -> Path:
        """Keep a secret that someone else made."""
        path = self._directory / name
        part = path.with_name(f".{name}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(value + "\n")
        part.replace(path)
        return path

    def has(self, name: str) -> bool:
        return (self._directory / name).exists()
