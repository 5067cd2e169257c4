"""To where Harbor may send its readers."""

from __future__ import annotations

from typing import Any

import pytest
from yarl import URL

from workers.adapters.oci.destination import same_place
from workers.adapters.oci.manifest import Descriptor
from workers.adapters.oci.proving import reachable
from workers.errors import Stuck

BLOB = Descriptor("sha256:" + "0" * 64, 1)


class Sending:
    """A Harbor that sends readers of every blob to one host."""

    def __init__(self, host: str | None) -> None:
        self.host = host

    async def redirect(self, repository: str, blob: Descriptor) -> str | None:
        return self.host


@pytest.mark.parametrize("host", [None, "s3.svcs.example.com", "svc.example.com", "minio.io", "10.0.0.7", "fd00::7"])
async def test_readers_may_be_sent_to_what_nodes_can_resolve(host: str | None) -> None:
    harbor: Any = Sending(host)
    await reachable(harbor, "proxy-ghcr/x", BLOB)


@pytest.mark.parametrize("host", ["minio", "s3.seaweedfs.svc", "S3.seaweedfs.svc.k8s.corp.", "s3.cluster.local"])
async def test_readers_may_not_be_sent_to_what_only_pods_resolve(host: str) -> None:
    harbor: Any = Sending(host)
    with pytest.raises(Stuck, match=rf"HarborRedirects.*{host}"):
        await reachable(harbor, "proxy-ghcr/x", BLOB)


@pytest.mark.parametrize(
    ("realm", "same"),
    [
        ("https://harbor.x/service/token", True),
        ("https://Harbor.X:443/service/token", True),
        ("http://harbor.x/service/token", False),
        ("https://harbor.x:8443/service/token", False),
        ("https://harbor.y/service/token", False),
    ],
)
def test_a_token_service_is_where_nodes_ask_harbor_whatever_the_spelling(realm: str, same: bool) -> None:
    assert same_place(URL(realm), URL("https://harbor.x")) is same
