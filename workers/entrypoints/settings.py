"""Settings: one frozen model, from a YAML file and the environment. Secrets come from files that it names.

`CUTOVER_CONFIG` (or `--config`) names the file; `CUTOVER_NATS__URL` and the like override what it says.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from events.jetstream import Broker, unusable
from workers.handover import Handover
from workers.sovereign import Sovereign

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOOK: Final = 1.0  # seconds between two looks at the files of secrets


class ConfigurationError(Exception):
    """A setting is missing or wrong; the text names each of them. Nothing was connected."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kubernetes(Part):
    """How to reach the API server: the Pod's own account when `kubeconfig` is not set."""

    kubeconfig: Path | None = None


class Status(Part):
    """Where the picture of the log is kept."""

    namespace: str = "flux-system"
    name: str = "self-sovereign-cutover-status"


class Pace(Part):
    """How patient the pool is. Seconds."""

    lease: float = Field(default=20.0, ge=2.0, le=3600.0)
    """Of a claim: within two thirds of it a renewal must have been confirmed, and one is sent every half second at
    most."""
    waits: int = Field(default=120, ge=1)
    blips: int = Field(default=5, ge=1)
    total: float = Field(default=7200.0, gt=0)


class GitTime(Part):
    """How long Git may take. Seconds."""

    timeout: float = Field(default=1200.0, gt=0)
    """For one command; who is pushed to may say nothing for as long."""
    stall: int = Field(default=30, ge=1)
    """For which who is read from may send next to nothing."""


class AutoFire(Part):
    """Begin a cutover by itself after the first operator's login. Off unless somebody switches it on."""

    enabled: bool = False
    grace: float = Field(default=900.0, ge=1.0)
    """Seconds from that login, in which anyone entitled can cancel it for ever."""
    role: str = "sovereign-admin"
    """Realm role that makes a login an operator's."""


class ServiceAccounts(Part):
    """In-cluster callers, known by TokenReview."""

    audience: str
    """What their tokens must be for: the API server's own audience would let every Pod's token in."""
    may_act: tuple[str, ...] = ()
    """`system:serviceaccount:<namespace>:<name>`, exactly."""
    may_read: tuple[str, ...] = ()


class Identity(Part):
    """Who issues operators' tokens: a Keycloak realm."""

    issuer: str
    """`iss`, exactly as the tokens have it: https://keycloak.<fqdn>/realms/<realm>."""
    audience: str = "catalyst-api"
    jwks_url: str | None = None
    """Default: what the issuer's discovery document says."""
    ca_file: Path | None = None
    algorithms: tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384"], ...] = (
        "RS256", "PS256", "ES256",
    )  # fmt: skip
    authorized_parties: tuple[str, ...] = ()
    """`azp` must be one of these; empty: any."""
    roles_client: str = "catalyst-api"
    """Roles count from `realm_access` and from `resource_access` of this client."""
    action_roles: tuple[str, ...] = ("sovereign-admin",)
    reader_roles: tuple[str, ...] = ("sovereign-reader", "sovereign-viewer")
    leeway: float = Field(default=30.0, ge=0, le=300)
    refresh: float = Field(default=300.0, gt=0)
    """Seconds after which keys are asked for anew; old ones go on while nobody answers."""
    cooldown: float = Field(default=10.0, gt=0)
    """Seconds between two questions because of a key that is not known."""


class ApiLimits(Part):
    """What one process bears. Seconds, bytes, counts."""

    connections: int = Field(default=4096, ge=1)
    readers: int = Field(default=3000, ge=1)
    """Open streams of events in all."""
    readers_each: int = Field(default=1500, ge=1)
    """The same for each identity."""
    body: int = Field(default=64 * 1024, ge=1)
    headers: int = Field(default=16 * 1024, ge=1024)
    arrival: float = Field(default=10.0, gt=0)
    """Until a request must have arrived whole."""
    stall: float = Field(default=30.0, gt=0)
    """For which a reader may take nothing of what was sent."""
    answer: float = Field(default=15.0, gt=0)
    """To wait for the workers' answer to a request."""
    look: float = Field(default=60.0, gt=0)
    """To wait for a plan or an audit."""


class Api(Part):
    """The front door, `cutover serve`."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    identity: Identity | None = None
    service_accounts: ServiceAccounts | None = None
    ticket_key_file: Path | None = None
    """At least 32 random bytes that all replicas share; without it a ticket opens the replica that gave it."""
    login_client: str | None = None
    """Public client by which the console card may log people in."""
    limits: ApiLimits = ApiLimits()


class Probes(Part):
    """Where the kubelet's probes are answered; no port: nowhere."""

    host: str = "0.0.0.0"  # noqa: S104  the kubelet comes from outside the Pod
    port: int | None = Field(default=None, ge=0, le=65535)


class Telemetry(Part):
    """Where traces go; without an endpoint nothing is sent."""

    endpoint: str | None = Field(default=None, pattern=r"^https?://[^@]+$")
    """OTLP over HTTP, whole: http://otel-collector.monitoring:4318/v1/traces. No credentials in it."""


class Settings(BaseSettings):
    """Everything that one process is told."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="CUTOVER_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    nats: Broker
    sovereign: Sovereign
    kubernetes: Kubernetes = Kubernetes()
    status: Status = Status()
    pace: Pace = Pace()
    git: GitTime = GitTime()
    auto_fire: AutoFire = AutoFire()
    handover: Handover | None = None
    """What shows that handover is finished. Named: no cutover begins before; auto-fire needs it."""
    api: Api = Api()
    workspace: Path = Path(tempfile.gettempdir()) / "catalyst-cutover"
    """Scratch space for Git; must be writable."""
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
    telemetry: Telemetry = Telemetry()
    health: Probes = Probes()
    withheld: tuple[str, ...] = ()
    """Secrets that this process is not given, by the name of the setting: a node agent needs no login of Harbor."""

    @field_validator("log_level")
    @classmethod
    def _a_level(cls, word: str) -> str:
        if word.upper() not in LEVELS:
            raise ValueError(f"no level; there are {', '.join(LEVELS)}")
        return word.upper()


_FROM_SOURCES: dict[str, Any] = {}  # every value comes from the file and the environment


def load(path: Path | None = None) -> Settings:
    """The settings of this process. Raises ConfigurationError naming every setting that is missing or wrong."""
    named = path or (Path(os.environ["CUTOVER_CONFIG"]) if os.environ.get("CUTOVER_CONFIG") else None)
    if named is not None and not named.is_file():
        raise ConfigurationError(f"{named}: no such file (CUTOVER_CONFIG or --config names it)")

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file = (YamlConfigSettingsSource(settings_cls, yaml_file=named),) if named else ()
            return (env_settings, *file)

    try:
        loaded = Loaded(**_FROM_SOURCES)
    except ValidationError as error:
        raise ConfigurationError(explain(error, named)) from None
    except SettingsError as error:
        raise ConfigurationError(f"settings:\n  {_variable(error)}") from None
    except Exception as error:
        raise ConfigurationError(f"{named}: not readable as YAML: {type(error).__name__}") from None
    _look_at_files(loaded)
    if loaded.auto_fire.enabled and loaded.handover is None:
        why = "auto-fire never fires before handover is sealed: name what shows it, or leave auto_fire.enabled off"
        raise ConfigurationError(f"settings:\n  handover (CUTOVER_HANDOVER): {why}")
    return loaded


def _variable(error: SettingsError) -> str:
    """Which variable is no JSON, though a part of the settings is to stand in it whole; never what stands there."""
    found = re.search(r'field "(\w+)"', str(error))
    name = found[1] if found else "a setting"
    return f"{name} (CUTOVER_{name.upper()}): the variable holds no JSON, which the whole of it would be"


def explain(error: ValidationError, named: Path | None) -> str:
    """One line for each setting, with its name as the file spells it and as the environment does."""
    lines = [f"settings{f' in {named}' if named else ''}:"]
    for item in error.errors(include_input=False, include_url=False):
        path = [str(part) for part in item["loc"]]
        variable = "CUTOVER_" + "__".join(path).upper()
        lines.append(f"  {'.'.join(path)} ({variable}): {item['msg']}")
    return "\n".join(lines)


def secret_files(settings: BaseModel) -> dict[str, Path]:
    """Every file that the settings name as a secret, by the setting's name."""
    found: dict[str, Path] = {}
    withheld = settings.withheld if isinstance(settings, Settings) else ()

    def walk(value: Any, name: str) -> None:
        if isinstance(value, BaseModel):
            for field in type(value).model_fields:
                walk(getattr(value, field), f"{name}.{field}" if name else field)
        elif isinstance(value, tuple):
            for place, item in enumerate(value):
                walk(item, f"{name}.{place}")
        elif isinstance(value, Path) and name.endswith("_file") and name not in withheld:
            found[name] = value

    walk(settings, "")
    return found


def _look_at_files(settings: Settings) -> None:
    missing = [
        f"  {name}: {path}: {_lack(path)}" for name, path in secret_files(settings).items() if not _readable(path)
    ]
    if settings.kubernetes.kubeconfig and not _readable(settings.kubernetes.kubeconfig):
        missing.append(f"  kubernetes.kubeconfig: {settings.kubernetes.kubeconfig}: not readable")
    if missing:
        raise ConfigurationError("settings name files that cannot be read:\n" + "\n".join(missing))
    if spoilt := [line for line in unusable(settings.nats) if line.partition(":")[0] not in settings.withheld]:
        raise ConfigurationError("settings name files that are not what they are named for:\n  " + "\n  ".join(spoilt))


MOUNTED = Path("/etc/cutover/secrets")
"""Where the chart mounts Secrets, each in a directory of its name."""


def _lack(path: Path) -> str:
    """A Pod does not start before the Secrets that it mounts are there; what can lack is a key."""
    if path.parent.parent == MOUNTED and not path.exists():
        return f"Secret {path.parent.name} has no key {path.name}"
    return "not readable"


def _readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def redactor(settings: Settings) -> Callable[[str], str]:
    """A function that takes every secret we know out of a text.

    Files are looked at again now and then: a Secret that is rotated changes under a process that runs, and the old
    word stays one that nobody should read."""
    files = [path for name, path in secret_files(settings).items() if not name.endswith("ca_file")]
    known: list[str] = []
    looked = float("-inf")

    def look() -> None:
        found = {text for path in files if (text := _content(path)) is not None and len(text) >= 4}
        known[:] = sorted(found.union(known), key=len, reverse=True)

    def redact(text: str) -> str:
        nonlocal looked
        if (now := time.monotonic()) - looked > LOOK:
            look()
            looked = now
        for secret in known:
            text = text.replace(secret, "***")
        return text

    return redact


def _content(path: Path) -> str | None:
    """None while it cannot be read: what nobody can read, nobody can repeat."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
