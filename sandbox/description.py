"""What the workers are told of a Sovereign in a box: names as they stand in manifests, wires on loopback."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sandbox.catalogue import FQDN, GITHUB, GITOPS_UPSTREAM, HARBOR_HOST, MOTHERSHIP
from sandbox.keyring import Keyring
from sandbox.network import Identity
from sandbox.oidc import AUDIENCE, CLIENT, Issuer
from sandbox.seed import PAUSE
from workers.sovereign import (
    DEFAULT_UPSTREAMS,
    Flux,
    Gitea,
    Harbor,
    Login,
    Nodes,
    Proof,
    Sovereign,
    UpstreamGit,
)

WORKER = Identity("worker", "cutover-worker", "catalyst-cutover", (("app", "cutover-worker"),))
"""Who the workers are on the network."""
GHCR_USER = "openova-bot"
HARBOR_USER = "admin"
GITEA_USER = "gitea_admin"
PULL_LOGIN = "ghcr-pull"
GITEA_TOKEN = "gitea-token"
HARBOR_PASSWORD = "harbor-admin"
TICKET_KEY = "ticket-key"


def describe(
    keyring: Keyring, wires: Mapping[str, str], gitea: str, harbor: str, *, front: str, branch: str, hold: float,
    secret_namespaces: tuple[str, ...] = (),
) -> Sovereign:  # fmt: skip
    """The Sovereign. `wires`: upstream host -> URL on loopback; `gitea`, `harbor`: base URLs on loopback.

    `front` is the way to Harbor by its public name, through the gateway.
    """
    pull = Login(username=GHCR_USER, password_file=keyring.path(PULL_LOGIN))
    path = GITOPS_UPSTREAM.partition(GITHUB)[2]
    return Sovereign(
        fqdn=FQDN,
        upstream_git=UpstreamGit(url=GITOPS_UPSTREAM, branch=branch, connect=wires[GITHUB] + path),
        gitea=Gitea(url=gitea, login=Login(username=GITEA_USER, password_file=keyring.path(GITEA_TOKEN))),
        harbor=Harbor(
            url=harbor,
            host=HARBOR_HOST,
            connect=front,
            login=Login(username=HARBOR_USER, password_file=keyring.path(HARBOR_PASSWORD)),
        ),
        upstreams=tuple(
            u.model_copy(update={"endpoint": wires[u.host], "login": pull if u.host == "ghcr.io" else None})
            for u in DEFAULT_UPSTREAMS
        ),
        mothership_endpoint=wires[MOTHERSHIP],
        mothership_login=pull,
        flux=Flux(timeout=60),
        nodes=Nodes(timeout=30),
        proof=Proof(hold=hold, rehearsal=True, sample=max(1.0, min(15.0, hold / 5)), connect_timeout=1.0),
        extra_images=(PAUSE,),
        secret_namespaces=secret_namespaces,
    )


def without_upstream_logins(sovereign: Sovereign) -> Sovereign:
    """The same Sovereign as a class is told of it that copies nothing from outside."""
    upstreams = tuple(each.model_copy(update={"login": None}) for each in sovereign.upstreams)
    return sovereign.model_copy(update={"upstreams": upstreams, "mothership_login": None})


def front_door(issuer: Issuer, ticket_key: Path) -> dict[str, Any]:
    """Section `api` of the settings: who may ask, on whatever port is free."""
    accounts = {"audience": "catalyst-cutover", "may_act": ["system:serviceaccount:catalyst-system:catalyst-api"]}
    return {
        "port": 0,
        "identity": {"issuer": issuer.url, "audience": AUDIENCE},
        "service_accounts": accounts,
        "ticket_key_file": str(ticket_key),
        "login_client": CLIENT,
    }


def write_settings(
    file: Path,
    sovereign: Sovereign,
    *,
    nats: Mapping[str, str],
    kubeconfig: Path,
    workspace: Path,
    api: Mapping[str, Any] | None = None,
) -> None:
    """The file that `cutover --config` reads. It names secrets' files and holds none."""
    document = {
        "nats": dict(nats),
        "kubernetes": {"kubeconfig": str(kubeconfig)},
        "sovereign": sovereign.model_dump(mode="json", exclude_none=True),
        "workspace": str(workspace),
        **({"api": dict(api)} if api else {}),
    }
    part = file.with_name(f".{file.name}.part")
    part.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    os.replace(part, file)
