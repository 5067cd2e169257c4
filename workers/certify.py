"""The key that signs certificates: in a Secret of the Sovereign's own, made when it is first needed."""

from __future__ import annotations

import base64
import binascii

from events.certificate import Signer
from workers.adapters.cluster import SECRET, Cluster, Exists, Object
from workers.errors import Stuck, Wait

SECRET_NAME = "cutover-certificate-key"  # noqa: S105  a Secret's name
PRIVATE, PUBLIC = "ed25519.pem", "ed25519.pub"


async def signer(cluster: Cluster, namespace: str) -> Signer:
    """The Sovereign's signing key; of many who make it at the same time, one wins and all use it."""
    found = await cluster.get(SECRET, SECRET_NAME, namespace)
    if found is None:
        new = Signer.new()
        try:
            await cluster.create(SECRET, _secret(new, namespace))
            return new
        except Exists:
            found = await cluster.get(SECRET, SECRET_NAME, namespace)
    if found is None:
        raise Wait("CertificateKeyVanished", f"Secret {namespace}/{SECRET_NAME} was deleted while it was read")
    return _read(found, namespace)


def _secret(key: Signer, namespace: str) -> Object:
    plain = {PRIVATE: key.pem, PUBLIC: key.verifier.pem.encode()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        # Whoever could write it anew could sign a certificate: it is made once and never changed.
        "immutable": True,
        "metadata": {
            "name": SECRET_NAME,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "catalyst-cutover"},
            "annotations": {"helm.sh/resource-policy": "keep", "kustomize.toolkit.fluxcd.io/reconcile": "disabled"},
        },
        "type": "Opaque",
        "data": {name: base64.b64encode(value).decode() for name, value in plain.items()},
    }


def _read(secret: Object, namespace: str) -> Signer:
    try:
        return Signer.from_pem(base64.b64decode((secret.get("data") or {})[PRIVATE], validate=True))
    except (KeyError, ValueError, TypeError, binascii.Error) as error:
        message = f"Secret {namespace}/{SECRET_NAME}: {PRIVATE} is no Ed25519 key ({type(error).__name__})"
        raise Stuck(
            "CertificateKeyUnreadable", f"{message}; restore it: another key breaks older certificates"
        ) from None
