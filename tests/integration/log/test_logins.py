"""Every way that the chart offers to log in to a broker lets the right one in, and nobody else."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import nkeys
import pytest

from events.jetstream import Broker as Settings
from events.jetstream import JetStreamLog
from events.log import LogUnavailable, NotPermitted
from sandbox.broker import Broker


def user() -> tuple[str, str]:
    """Seed and public key of a new NATS user."""
    seed: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public: bytes = nkeys.from_seed(bytearray(seed)).public_key
    return seed.decode(), public.decode()


@pytest.mark.parametrize("known", [True, False])
async def test_an_nkey_opens_the_log_to_its_owner_alone(tmp_path: Path, known: bool) -> None:
    seed, public = user()
    (tmp_path / "seed").write_text(seed if known else user()[0], encoding="utf-8")
    more = f"authorization {{ users: [ {{ nkey: {public} }} ] }}"
    async with Broker.start(tmp_path / "broker", more=more) as broker:
        settings = Settings(url=broker.url, nkey_seed_file=tmp_path / "seed", budget=2)
        if known:
            async with JetStreamLog.open(settings) as stream:
                await stream.ensure()
        else:
            # The server says no and hangs up; which of the two is heard first is the network's matter.
            with pytest.raises((NotPermitted, LogUnavailable)):
                async with JetStreamLog.open(settings):
                    pass


@pytest.mark.parametrize("right", [True, False])
async def test_a_password_opens_the_log_when_it_is_the_right_one(tmp_path: Path, right: bool) -> None:
    secret = "p" + base64.b32encode(os.urandom(10)).decode()
    (tmp_path / "password").write_text(secret if right else "other", encoding="utf-8")
    more = "authorization { users: [ { user: supply, password: $SUPPLY } ] }"
    async with Broker.start(tmp_path / "broker", more=more, variables={"SUPPLY": secret}) as broker:
        settings = Settings(url=broker.url, user="supply", password_file=tmp_path / "password", budget=2)
        if right:
            async with JetStreamLog.open(settings) as stream:
                await stream.ensure()
        else:
            with pytest.raises((NotPermitted, LogUnavailable)) as refused:
                async with JetStreamLog.open(settings):
                    pass
            assert "other" not in str(refused.value)
