"""The stream and its consumers: made as they must be, or found so; what has drifted is refused."""

from __future__ import annotations

from collections.abc import Callable, Collection

import anyio
import nats.js.errors
from nats.js.api import ConsumerConfig, StreamConfig

from events.jetstream.connection import Connection
from events.jetstream.shape import EARLIER, StreamDrift, consumer_configs, differences, grows, stream_config
from events.jetstream.wire import RETRY, words
from events.log import LogUnavailable, NotPermitted


class Maker(Connection):
    """Makes the stream, or waits until whoever may has made it."""

    async def ensure(self) -> None:
        """Stream and consumers exist as they must. Raises StreamDrift listing every difference."""
        wanted = stream_config(self.broker)
        try:
            found = await self._grown(wanted, await self._create_or_find(wanted))
            drift = differences(wanted, found)
            for consumer in consumer_configs(self.broker):
                info = await self._consumer(consumer)
                drift += [f"consumer {consumer.durable_name}: {line}" for line in differences(consumer, info)]
        except RETRY as error:
            if self.denied:
                raise NotPermitted(self.denied) from None
            raise LogUnavailable(f"stream {self.broker.stream}: {words(error)}") from None
        self._refuse_drift(drift)

    def _refuse_drift(self, drift: list[str]) -> None:
        if drift:
            raise StreamDrift(
                f"stream {self.broker.stream} is not as it must be; refusing to work on it:\n  " + "\n  ".join(drift)
            )

    async def await_ensured(self, say: Callable[[str], None], durables: Collection[str] | None = None) -> None:
        """As `ensure`, for who may not create: waits until whoever may has done so. Raises StreamDrift.

        `durables`: consumers that are looked at, since the others are nobody's of ours; None means all."""
        own = [each for each in consumer_configs(self.broker) if durables is None or each.durable_name in durables]
        while True:
            try:
                found = (await self.js.stream_info(self.broker.stream)).config
                drift = differences(stream_config(self.broker), found)
                for wanted in own:
                    info = await self.js.consumer_info(self.broker.stream, wanted.durable_name or "")
                    drift += [f"consumer {wanted.durable_name}: {each}" for each in differences(wanted, info.config)]
                break
            except nats.js.errors.NotFoundError as error:
                say(f"stream {self.broker.stream} is not made yet ({words(error)}); waiting")
            except RETRY as error:
                if self.denied:
                    raise NotPermitted(self.denied) from None
                say(f"stream {self.broker.stream}: {words(error)}; trying again")
            await anyio.sleep(1)
        self._refuse_drift(drift)

    async def _create_or_find(self, wanted: StreamConfig) -> StreamConfig:
        try:
            return (await self.js.stream_info(self.broker.stream)).config
        except nats.js.errors.NotFoundError:
            return (await self.js.add_stream(wanted)).config

    async def _grown(self, wanted: StreamConfig, found: StreamConfig) -> StreamConfig:
        """A log that is to hold more is made to, by who may; else that is drift as any other difference is."""
        if not grows(wanted, found):
            return found
        try:
            return (await self.js.update_stream(wanted)).config
        except RETRY:
            if self.denied is None:
                raise
            return found

    async def _consumer(self, wanted: ConsumerConfig) -> ConsumerConfig:
        name = wanted.durable_name or ""
        try:
            config: ConsumerConfig = (await self.js.consumer_info(self.broker.stream, name)).config
            if config.filter_subjects in EARLIER.get(name, ()):  # made by an earlier version of ours: its filter grows
                config = (await self.js.add_consumer(self.broker.stream, wanted)).config
            return config
        except nats.js.errors.NotFoundError:
            config = (await self.js.add_consumer(self.broker.stream, wanted)).config
            return config
