"""Whether local Harbor serves where Flux will ask, over real TLS."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from workers.adapters.oci import destination
from workers.errors import Stuck, Trouble, Wait
from workers.sovereign import Harbor
from workers.supply.pull_secrets import Lent

ROBOT = Lent(username="robot$cutover-pull", secret=SecretStr("hunter2"))
LATER = datetime.now(UTC) + timedelta(days=1)


def certificate(directory: Path) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself; its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "harbor")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(LATER)
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir(exist_ok=True)
    file = directory / "tls.crt"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.with_suffix(".key").write_bytes(pem)
    return file


@dataclass
class Gateway:
    """What it answers."""

    front: int = 401
    token: int = 200
    realm: str = ""
    asked: str = ""
    body: str = '{"token": "t"}'


@asynccontextmanager
async def served(gateway: Gateway, tls: Path) -> AsyncIterator[str]:
    """`host:port` of a TLS server."""

    async def front(request: web.Request) -> web.Response:
        realm = gateway.realm or f"https://{request.host}/service/token"
        challenge = f'Bearer realm="{realm}",service="harbor-registry",scope=""'
        return web.Response(status=gateway.front, headers={"WWW-Authenticate": challenge})

    async def token(request: web.Request) -> web.Response:
        gateway.asked = f"{request.headers.get('Authorization', '')} {request.query['scope']}"
        return web.Response(status=gateway.token, text=gateway.body)

    app = web.Application()
    app.add_routes([web.get("/v2/", front), web.get("/service/token", token)])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls, tls.with_suffix(".key"))
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def verdict(gateway: Gateway, tls: Path, ca: Path | None) -> Trouble | None:
    async with served(gateway, tls) as host:
        harbor = Harbor(url="http://127.0.0.1:1", host=host, login=ROBOT, ca_file=str(ca) if ca else None)
        try:
            await destination.ready(harbor, ROBOT, "openova-io/x")
        except Trouble as trouble:
            return trouble
        return None


async def test_a_token_over_tls_that_readers_trust_is_all_that_it_takes(tmp_path: Path) -> None:
    tls, gateway = certificate(tmp_path), Gateway()
    assert await verdict(gateway, tls, tls) is None
    basic = base64.b64encode(b"robot$cutover-pull:hunter2").decode()
    assert gateway.asked == f"Basic {basic} repository:openova-io/x:pull"


@pytest.mark.parametrize("known", [True, False])
async def test_a_certificate_that_nobody_vouches_for_is_not_ready(tmp_path: Path, known: bool) -> None:
    ca = certificate(tmp_path / "other") if known else None
    found = await verdict(Gateway(), certificate(tmp_path), ca)
    assert isinstance(found, Wait)
    assert (found.reason, "certificate" in found.message) == ("DestinationNotReady", True)


@pytest.mark.parametrize(
    ("gateway", "kind", "reason", "words"),
    [
        (Gateway(front=502), Wait, "DestinationNotReady", "502"),
        (Gateway(front=404), Wait, "DestinationNotReady", "404"),
        (Gateway(token=503), Wait, "DestinationNotReady", "503"),
        (Gateway(body="<html>"), Wait, "DestinationNotReady", "no token"),
        (Gateway(body="{}"), Wait, "DestinationNotReady", "no token"),
        (Gateway(realm="http://harbor-core.harbor.svc/service/token"), Stuck, "TokenRealm", "externalURL"),
        (Gateway(realm="http://127.0.0.1/service/token"), Stuck, "TokenRealm", "externalURL"),
        (Gateway(realm="https://127.0.0.1:1/service/token"), Stuck, "TokenRealm", "externalURL"),
        (Gateway(token=401), Stuck, "RobotRefused", "robot$cutover-pull"),
    ],
)
async def test_whatever_flux_could_not_use_is_told(
    tmp_path: Path, gateway: Gateway, kind: type[Trouble], reason: str, words: str
) -> None:
    tls = certificate(tmp_path)
    found = await verdict(gateway, tls, tls)
    assert isinstance(found, kind)
    assert found.reason == reason
    assert words in found.message
    assert "hunter2" not in found.message


async def test_nobody_listening_is_not_ready() -> None:
    harbor = Harbor(url="http://127.0.0.1:1", host="127.0.0.1:9", login=ROBOT)
    with pytest.raises(Wait, match="DestinationNotReady"):
        await destination.ready(harbor, ROBOT, "openova-io/x")
