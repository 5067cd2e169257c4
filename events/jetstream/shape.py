"""The stream and its consumers as they must be, and how what is found differs. Pure."""

from __future__ import annotations

from typing import Any, Final

from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, StorageType, StreamConfig

from events.flow import STEPS
from events.jetstream.settings import Broker
from events.subjects import ALL, CANCEL, LOGIN, REQUESTED, trigger

ADMISSION: Final = "admission"
REGISTRAR: Final = "registrar"
EARLIER: Final[dict[str, tuple[list[str], ...]]] = {ADMISSION: ([REQUESTED, CANCEL],)}
"""Filters that earlier versions gave a consumer. One that has such a filter is brought up to date, not refused."""


class StreamDrift(Exception):
    """The stream or a consumer on the broker is not as it must be; the text lists every difference."""


class LogReplaced(StreamDrift):
    """The stream is another one than the one that was read: made anew, or cut back. What was folded is of no log."""


def stream_config(broker: Broker) -> StreamConfig:
    """The stream as it must be: nothing ages, nothing is overwritten, nothing can be taken out."""
    return StreamConfig(
        name=broker.stream,
        subjects=[ALL],
        storage=StorageType.FILE,
        num_replicas=broker.replicas,
        max_bytes=broker.max_bytes,
        discard=DiscardPolicy.NEW,
        max_age=0,
        max_msgs=-1,
        duplicate_window=broker.duplicate_window,
        deny_delete=True,
        deny_purge=True,
        allow_atomic=True,
        allow_direct=True,
        allow_rollup_hdrs=False,
        allow_msg_ttl=False,
        allow_msg_schedules=False,
    )


def consumer_configs(broker: Broker) -> tuple[ConsumerConfig, ...]:
    """One durable consumer a step, one for requests, one that looks for strays."""

    def durable(name: str, subjects: list[str]) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=name,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=broker.ack_wait,
            max_ack_pending=1,
            max_deliver=-1,
            filter_subject=subjects[0] if len(subjects) == 1 else None,
            filter_subjects=subjects if len(subjects) > 1 else None,
        )

    steps = [durable(step_durable(step.number), [trigger(step)]) for step in STEPS]
    registrar = durable(REGISTRAR, [ALL])
    registrar.ack_policy, registrar.max_ack_pending = AckPolicy.ALL, 1000  # it reads much and keeps little
    return (*steps, durable(ADMISSION, [REQUESTED, CANCEL, LOGIN]), registrar)


def step_durable(number: int) -> str:
    """Name of a step's durable consumer."""
    return f"step-{number}"


def differences(wanted: StreamConfig | ConsumerConfig, found: StreamConfig | ConsumerConfig) -> list[str]:
    """Every field in which what was found differs from what must be, one line each."""
    lines = []
    for name, want in vars(wanted).items():
        have = getattr(found, name, None)
        if want is None or _plain(want) == _plain(have):
            continue
        lines.append(f"{name} is {_plain(have)!r}, must be {_plain(want)!r}")
    if isinstance(found, StreamConfig) and (found.sources or found.mirror or found.republish):
        lines.append("it mirrors, sources or republishes, must do none of it")
    return lines


def grows(wanted: StreamConfig, found: StreamConfig) -> bool:
    """True when nothing differs but that it is to hold more."""
    larger = (wanted.max_bytes or 0) > (found.max_bytes or 0) > 0
    return larger and not differences(wanted, found.evolve(max_bytes=wanted.max_bytes))


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return False if value is None else value
