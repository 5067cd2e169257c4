"""Crossplane fetches packages by itself, past the nodes' mirrors: its own word that it got them from Harbor."""

from __future__ import annotations

from workers import flux
from workers.adapters.cluster import Cluster, Object, Seen, WaitedInVain, key_of
from workers.errors import Wait
from workers.steps.helmrepo_patches.sources import PACKAGE_KINDS, Plan


async def healthy(cluster: Cluster, todo: Plan, timeout: float) -> None:
    """Every changed package is installed from its new place.

    A package without any condition before has no Crossplane that looks at it yet: nothing to wait for.
    """
    for kind in PACKAGE_KINDS:
        wanted = {
            ("", change.name): str(change.fields["spec", "package"])
            for change, obj in todo.changes
            if change.kind is kind and flux.condition(obj, "Installed") is not None
        }
        if not wanted:
            continue

        def late(seen: Seen, wanted: dict[tuple[str, str], str] = wanted) -> list[str]:
            return [key[1] for key, package in wanted.items() if not installed(seen.get(key), package)]

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
    return all((flux.condition(obj, kind) or {}).get("status") == "True" for kind in ("Installed", "Healthy"))


def _said(obj: Object) -> str:
    found = (obj.get("status") or {}).get("conditions") or []
    return f"{key_of(obj)[1]} " + ", ".join(f"{c['type']}={c['status']} {c.get('message', '')}"[:200] for c in found)
