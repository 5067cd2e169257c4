"""Bodies in Kubernetes' protobuf envelope, as client-go's typed clients send them."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.kube.protobuf import Unreadable, decode


def part(number: int, body: bytes) -> bytes:
    """One field of wire type 2."""
    return bytes([number << 3 | 2, len(body)]) + body


def envelope(kind: str, body: bytes) -> bytes:
    return b"k8s\x00" + part(1, part(1, b"v1") + part(2, kind.encode())) + part(2, body) + part(3, b"") + part(4, b"")


def entry(key: str, value: bytes) -> bytes:
    return part(1, key.encode()) + part(2, value)


def test_a_secret_is_read_with_its_labels_and_its_bytes() -> None:
    meta = part(1, b"sh.helm.release.v1.cutover.v1") + part(2, b"") + part(11, entry("owner", b"helm"))
    meta += part(11, entry("version", b"1")) + part(8, b"")  # the zero time
    body = part(1, meta) + part(2, entry("release", b"H4s\xff\x00")) + part(3, b"helm.sh/release.v1")
    found = decode(envelope("Secret", body))
    assert found == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "sh.helm.release.v1.cutover.v1", "labels": {"owner": "helm", "version": "1"}},
        "data": {"release": base64.b64encode(b"H4s\xff\x00").decode()},
        "type": "helm.sh/release.v1",
    }


def test_a_long_number_of_bytes_is_read_whole() -> None:
    """Lengths over 127 take more than one byte."""
    release = bytes(range(256)) * 3
    field = bytes([2 << 3 | 2, 0x80, 0x06]) + release
    pair = part(1, b"release") + field
    body = bytes([2 << 3 | 2, 0x8C, 0x06]) + pair
    assert len(pair) == 0x30C
    raw = b"k8s\x00" + part(1, part(1, b"v1") + part(2, b"Secret")) + bytes([2 << 3 | 2, 0x8F, 0x06]) + body
    assert base64.b64decode(decode(raw)["data"]["release"]) == release


def test_options_of_a_delete_are_read() -> None:
    body = bytes([1 << 3, *[0xFF] * 9, 1]) + part(2, part(1, b"a-uid")) + part(4, b"Background") + part(5, b"All")
    assert decode(envelope("DeleteOptions", body)) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": -1,
        "preconditions": {"uid": "a-uid"},
        "propagationPolicy": "Background",
        "dryRun": ["All"],
    }


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{}", "expected prefix"),
        (envelope("Pod", b""), "protobuf of Pod is not read here"),
        (envelope("Secret", part(1, b"\x0a\x7fshort")), "unexpected EOF"),
        (envelope("Secret", bytes([1 << 3, 5])), "a number where bytes belong"),
        (envelope("Secret", part(1, part(8, bytes([1 << 3, *[0xFF] * 9, 1])))), "a time that is none"),
        (envelope("DeleteOptions", part(1, b"x")), "bytes where a number belongs"),
    ],
)
def test_what_is_not_such_an_object_is_refused_by_what_it_is(raw: bytes, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        decode(raw)


@given(st.binary(max_size=60), st.sampled_from(["Secret", "ConfigMap", "DeleteOptions"]))
def test_any_bytes_are_read_or_refused(body: bytes, kind: str) -> None:
    with suppress(Unreadable, UnicodeDecodeError):
        assert decode(envelope(kind, body))["kind"] == kind
