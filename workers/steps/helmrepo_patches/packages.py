"""Crossplane fetches packages by itself, past the nodes' mirrors: its own word that it got them from Harbor.

Where its API has `ImageConfig.spec.rewriteImage` (since 1.20), that says so for every package and for what packages
depend on; where it has not, the field would be pruned without a word (api-facts 7), and `spec.package` is changed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from workers import flux
from workers.adapters.cluster import (
    CUSTOM_RESOURCE_DEFINITION,
    IMAGE_CONFIG,
    Cluster,
    Object,
    Seen,
    WaitedInVain,
    key_of,
    name_of,
)
from workers.declared.changes import at
from workers.errors import Wait
from workers.sovereign import Sovereign
from workers.steps.helmrepo_patches.sources import Plan
from workers.supply.sources import (
    KINDS,
    PACKAGE_KINDS,
    address,
    host_asked,
    local_address,
    project_of,
    resolved_locally,
)


async def rewrites(cluster: Cluster) -> bool:
    """True when ImageConfigs can rewrite where packages come from, by the schema that the API server prunes by."""
    if not await cluster.served(IMAGE_CONFIG):
        return False
    found = await cluster.get(CUSTOM_RESOURCE_DEFINITION, f"{IMAGE_CONFIG.plural}.{IMAGE_CONFIG.group}", None)
    path = ("schema", "openAPIV3Schema", "properties", "spec", "properties", "rewriteImage")
    versions = ((found or {}).get("spec") or {}).get("versions") or []
    return any(version.get("served") and at(version, path) is not None for version in versions)


def rewritable(obj: Object, sovereign: Sovereign) -> bool:
    """True for a package that an ImageConfig can match: one that names its host (defaults are not looked at)."""
    if KINDS[obj["kind"]] not in PACKAGE_KINDS or local_address(address(obj), sovereign) is None:
        return False
    return address(obj).partition("/")[0] == host_asked(address(obj))


def image_configs(packages: Iterable[Object], sovereign: Sovereign, public: Collection[str]) -> list[Object]:
    """One ImageConfig for each place upstream that packages name; and one to sign in, where a project is private.

    The rewriting comes first and signing in goes by what was rewritten, so those are two objects.
    """
    found: dict[str, Object] = {}
    for obj in packages:
        said, new = address(obj), local_address(address(obj), sovereign)
        if new is None or not rewritable(obj, sovereign):
            continue
        prefix, local = _prefixes(said, new)
        found[prefix] = _config(prefix, {"rewriteImage": {"prefix": local}})
        if project_of(new) not in public:
            secret = {"pullSecretRef": {"name": sovereign.flux.registry_secret}}
            found[local] = _config(local, {"registry": {"authentication": secret}})
    return list(found.values())


def _prefixes(said: str, new: str) -> tuple[str, str]:
    """What is the same at the end of both goes; what is left is what is rewritten, up to a slash."""
    old_parts, new_parts = said.split("/"), new.split("/")
    while len(old_parts) > 1 and len(new_parts) > 2 and old_parts[-1] == new_parts[-1]:
        old_parts.pop()
        new_parts.pop()
    return "/".join(old_parts) + "/", "/".join(new_parts) + "/"


def _config(prefix: str, said: Mapping[str, Object]) -> Object:
    name = "cutover-" + re.sub(r"[^a-z0-9]+", "-", prefix.lower()).strip("-")
    spec = {"matchImages": [{"type": "Prefix", "prefix": prefix}], **said}
    return {"metadata": {"name": name[:253]}, "spec": spec}


async def configure(cluster: Cluster, wanted: Iterable[Object]) -> int:
    """The ImageConfigs are there as wanted. How many had to be written."""
    written = 0
    for config in wanted:
        have = await cluster.get(IMAGE_CONFIG, name_of(config), None)
        if have is None or have.get("spec") != config["spec"]:
            await cluster.apply(IMAGE_CONFIG, config)
            written += 1
    return written


async def healthy(
    cluster: Cluster, todo: Plan, rewritten: Iterable[Object], sovereign: Sovereign, timeout: float
) -> None:
    """Every changed or rewritten package is installed from its new place.

    A package without any condition before has no Crossplane that looks at it yet: nothing to wait for.
    """
    watched = [obj for obj in rewritten if flux.condition(obj, "Installed") is not None]
    for kind in PACKAGE_KINDS:
        wanted = {
            ("", change.name): str(change.fields["spec", "package"])
            for change, obj in todo.changes
            if change.kind is kind and flux.condition(obj, "Installed") is not None
        }
        mapped = {("", name_of(obj)) for obj in watched if obj["kind"] == kind.kind}
        if not wanted and not mapped:
            continue

        def late(
            seen: Seen,
            wanted: dict[tuple[str, str], str] = wanted,
            mapped: set[tuple[str, str]] = mapped,
        ) -> list[str]:
            named = [key[1] for key, package in wanted.items() if not installed(seen.get(key), package)]
            return named + [key[1] for key in mapped if not _rewritten(seen.get(key), sovereign)]

        try:
            await cluster.wait_all(kind, None, lambda seen, late=late: not late(seen), timeout)  # type: ignore[misc]
        except WaitedInVain as vain:
            names = late(vain.seen)
            said = "; ".join(_said(obj) for key, obj in vain.seen.items() if key[1] in names[:5])
            raise Wait("PackageNotInstalled", f"{kind.kind} {', '.join(names[:5])}: {said}") from None


def installed(obj: Object | None, package: str) -> bool:
    """True when Crossplane resolved this very reference and runs it. `currentIdentifier` is what it resolved."""
    if obj is None or (obj.get("status") or {}).get("currentIdentifier") != package:
        return False
    return _runs(obj)


def _rewritten(obj: Object | None, sovereign: Sovereign) -> bool:
    return obj is not None and resolved_locally(obj, sovereign) and _runs(obj)


def _runs(obj: Object) -> bool:
    return all((flux.condition(obj, kind) or {}).get("status") == "True" for kind in ("Installed", "Healthy"))


def _said(obj: Object) -> str:
    found = (obj.get("status") or {}).get("conditions") or []
    return f"{key_of(obj)[1]} " + ", ".join(f"{c['type']}={c['status']} {c.get('message', '')}"[:200] for c in found)
