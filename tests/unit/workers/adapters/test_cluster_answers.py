"""What an answer of the API server means to us."""

from __future__ import annotations

import pytest

from workers.adapters.cluster_answers import forbidden
from workers.errors import Stuck, Wait

RBAC = 'secrets is forbidden: User "system:serviceaccount:x:y" cannot create resource "secrets" in API group ""'


@pytest.mark.parametrize(
    ("message", "kind", "reason", "said"),
    [
        (RBAC, Stuck, "ApiForbidden", "grant system:serviceaccount:x:y the verb create on it"),
        (
            'pods "p" is forbidden: violates PodSecurity "restricted:latest": privileged',
            Stuck,
            "ApiRejected",
            "not for want of a grant",
        ),
        ('pods "p" is forbidden: exceeded quota: q, requested: pods=1', Stuck, "ApiRejected", "exceeded quota"),
        ('admission webhook "w" denied the request: no', Stuck, "ApiRejected", 'webhook "w" denied'),
        (
            'secrets "s" is forbidden: unable to create new content in namespace n because it is being terminated',
            Wait,
            "NamespaceTerminating",
            "its namespace is being deleted",
        ),
    ],
)
def test_only_a_missing_grant_is_called_one(message: str, kind: type[Exception], reason: str, said: str) -> None:
    found = forbidden("patch", "secrets n/s", message)
    assert (type(found), found.reason) == (kind, reason)
    assert said in found.message
