"""What all commands share: where the settings come from, and which exit code an error means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from events.jetstream import StreamDrift
from events.log import LogFull, LogUnavailable, NotPermitted
from workers.entrypoints.settings import ConfigurationError, Settings, load
from workers.errors import Trouble

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
_CONFIG = "cutover.config"
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Failed(click.ClickException):
    """Refused, failed, or not complete."""

    exit_code = 1


class Misused(click.ClickException):
    """A setting is missing or wrong; nothing was connected."""

    exit_code = 2


class Unreachable(click.ClickException):
    """The broker or the cluster does not answer, or refuses this identity."""

    exit_code = 3


class Broken(click.ClickException):
    """The log, its stream or its picture is not as it must be."""

    exit_code = 4


def config_option(function: F) -> F:
    """`--config FILE`, before or after the command's name."""

    def keep(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is not None:
            ctx.meta[_CONFIG] = value

    return click.option(
        "--config", metavar="FILE", type=click.Path(path_type=Path), expose_value=False, callback=keep,
        is_eager=True, help="Settings (YAML); CUTOVER_CONFIG names them too, CUTOVER_NATS__URL and the like override.",
    )(function)  # fmt: skip


def output_option(function: F) -> F:
    """`--output json`, for scripts."""
    return click.option(
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="For people or scripts.",
    )(function)


def settings_of(ctx: click.Context) -> Settings:
    """The settings of this call. Ends with 2, naming each setting that is missing or wrong."""
    try:
        return load(ctx.meta.get(_CONFIG))
    except ConfigurationError as error:
        raise Misused(str(error)) from None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; trouble becomes a sentence and an exit code."""
    try:
        return asyncio.run(work)
    except Exception as error:
        for cause in _leaves(error):
            if (ended := _ended(cause)) is not None:
                raise ended from None
        raise


def _ended(error: BaseException) -> click.ClickException | None:
    match error:
        case click.ClickException():
            return error
        case ConfigurationError():
            return Misused(str(error))
        case StreamDrift():
            return Broken(str(error))
        case LogFull():
            return Failed(str(error))
        case LogUnavailable() | NotPermitted() | Trouble():
            return Unreachable(str(error))
        case _:
            return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of a task group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
