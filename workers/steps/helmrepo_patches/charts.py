"""Make every chart come from local Harbor for real.

A HelmChart with a pinned version and a cached archive makes no network request at all, whatever is asked of it
(source-controller `builder_remote.go`). Only a new HelmChart object must fetch; so each is deleted and its owner
makes it again. The Helm release is untouched by that: same name, same version, same values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from workers import flux
from workers.adapters.cluster import HELM_CHART, HELM_RELEASE, KUSTOMIZATION, Cluster, Exists, Object, Seen, key_of
from workers.declared.reconcile import Key, brought, each, lagging, patiently, request
from workers.errors import Stuck

COPY_OF = "cutover.catalyst/copy-of"
"""On the copy that is kept of a chart which only we would make again: the name of that chart."""


@dataclass(frozen=True, slots=True)
class Fetches:
    """Charts to fetch again, by who makes them anew; and those nobody would make anew now."""

    by_release: Mapping[Key, Key]
    """HelmChart -> HelmRelease."""
    by_kustomization: Mapping[Key, Key]
    by_us: tuple[Key, ...]
    """Applied by hand once, or their HelmRelease is suspended: no controller would bring them back."""
    dormant: tuple[Key, ...]
    """Suspended themselves: nobody fetches them, old or new."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """All that are to be fetched again."""
        return (*self.by_release, *self.by_kustomization, *self.by_us)


def stale(chart: Object, repository: Object) -> bool:
    """True unless the archive was surely fetched from where the repository points now."""
    since, fetched = flux.field_set_at(repository, "spec", "url"), flux.fetched_at(chart)
    return fetched is None or since is None or fetched < since


def fetches(
    charts: Iterable[Object],
    repositories: Mapping[Key, Object],
    releases: Mapping[Key, Object],
    *,
    moved: Collection[Key] = (),
) -> Fetches:
    """Which charts of these (local) repositories are still copies from before they were local.

    Repositories that were `moved` just now need no comparing of times, which count whole seconds.
    """
    charts = [chart for chart in charts if not copied_from(chart)]
    makers = {_chart_of(release): key for key, release in releases.items()}
    by_release: dict[Key, Key] = {}
    by_kustomization: dict[Key, Key] = {}
    by_us: list[Key] = []
    dormant: list[Key] = []
    for chart in charts:
        key, source = key_of(chart), flux.source_of(chart, "HelmRepository")
        if source is None or source not in repositories:
            continue
        if source not in moved and not stale(chart, repositories[source]):
            continue
        release = makers.get(key) or flux.owner(chart, flux.OWNED_BY_RELEASE)
        if chart["spec"].get("suspend"):
            dormant.append(key)
        elif release is not None and release in releases:
            if releases[release]["spec"].get("suspend"):
                by_us.append(key)
            else:
                by_release[key] = release
        elif owner := flux.owner(chart, flux.OWNED_BY_KUSTOMIZATION):
            by_kustomization[key] = owner
        else:
            by_us.append(key)
    return Fetches({**by_release, **_gone(charts, makers, releases)}, by_kustomization, tuple(by_us), tuple(dormant))


def _gone(charts: Iterable[Object], makers: Mapping[Key, Key], releases: Mapping[Key, Object]) -> dict[Key, Key]:
    """Charts that releases name and that are not there: an earlier attempt ended between deleting and asking."""
    there = {key_of(chart) for chart in charts}
    return {
        key: release
        for key, release in makers.items()
        if key[1] and key not in there and not releases[release]["spec"].get("suspend")
    }


def copied_from(chart: Object) -> str | None:
    """Of which chart this is the copy that an attempt keeps; None for any other chart."""
    name: str | None = (chart["metadata"].get("annotations") or {}).get(COPY_OF)
    return name


async def restore(cluster: Cluster, charts: Mapping[Key, Object]) -> bool:
    """Charts that an earlier attempt deleted and did not make again are there again. True when there were any."""
    lost = [chart for key, chart in charts.items() if (name := copied_from(chart)) and (key[0], name) not in charts]
    await each(lost, lambda copy: _make(cluster, copy, str(copied_from(copy))))
    return bool(lost)


async def drop_copies(cluster: Cluster) -> None:
    """No copy is kept any more."""
    kept = [key_of(chart) for chart in await cluster.list(HELM_CHART) if copied_from(chart)]
    await each(kept, lambda key: cluster.delete(HELM_CHART, key[1], key[0]))


def _chart_of(release: Object) -> Key:
    namespace, _, name = str((release.get("status") or {}).get("helmChart") or "").partition("/")
    return namespace, name


def differences(before: Mapping[Key, Object], after: Seen) -> list[str]:
    """Charts that came with other bytes than were there before, under the same version.

    A chart that Flux repackages (valuesFiles) has no stable digest.
    """
    found = []
    for key, chart in before.items():
        old, new = _artifact(chart), _artifact(after[key])
        if old and old.get("digest") != new.get("digest") and not chart["spec"].get("valuesFiles"):
            found.append(f"{'/'.join(key)} {new.get('revision')}")
    return found


def other_versions(before: Mapping[Key, Object], after: Seen) -> list[str]:
    """Charts that came in another version than before: their releases would be upgraded by the pivot."""
    pairs = ((key, _artifact(chart), _artifact(after[key])) for key, chart in before.items())
    return [
        f"{'/'.join(key)}: was {old['revision']}, is {new.get('revision')}"
        for key, old, new in pairs
        if old and old.get("revision") != new.get("revision")
    ]


def _artifact(chart: Object) -> Object:
    found: Object = (chart.get("status") or {}).get("artifact") or {}
    return found


async def fetch(cluster: Cluster, charts: Mapping[Key, Object], plan: Fetches, timeout: float) -> list[str]:
    """Every planned chart was made anew and downloaded, in the version it had. Those whose bytes differ.

    Other bytes are told and not refused: upstream published that version again, and step 3 copied what it serves.
    """
    before = {key: charts[key] for key in plan.keys if key in charts}
    await each(plan.by_us, lambda key: _make(cluster, before[key], f"{key[1][:240]}-cutover", copy_of=key[1]))
    await each(before, lambda key: cluster.delete(HELM_CHART, key[1], key[0]))
    # A finalizer holds each until its archive is gone; its owner must not find the old one still there.
    uids = {_uid(chart) for chart in before.values()}
    await cluster.wait_all(
        HELM_CHART, None, lambda seen: not uids & {c["metadata"]["uid"] for c in seen.values()}, timeout
    )
    await each(plan.by_us, lambda key: _make(cluster, before[key], key[1]))

    async def ask(late: Iterable[Key]) -> None:
        keys = set(late)
        await request(cluster, HELM_RELEASE, {owner for key, owner in plan.by_release.items() if key in keys})
        await request(cluster, KUSTOMIZATION, {owner for key, owner in plan.by_kustomization.items() if key in keys})

    def lagging_(seen: Seen) -> dict[Key, flux.Verdict]:
        return lagging({key: _fetched(before.get(key), seen.get(key)) for key in plan.keys})

    await ask(plan.keys)
    after = await patiently(cluster, HELM_CHART, lambda seen: not lagging_(seen), lagging_, timeout, nudge=ask)
    if moved_on := other_versions(before, after):
        message = f"local Harbor serves another version than upstream did: {'; '.join(moved_on[:5])}"
        raise Stuck("ChartDiffers", f"{message}; pin the version or mirror again")
    return differences(before, after)


def _uid(obj: Object) -> str:
    return str(obj["metadata"]["uid"])


def _fetched(before: Object | None, now: Object | None) -> flux.Verdict:
    if now is None or (before is not None and _uid(now) == _uid(before)):
        return flux.Verdict(flux.State.WAITING, "NotMadeAnew", "its owner has not made it again yet")
    verdict = flux.converged(now)
    if verdict.state is flux.State.READY and flux.fetched_at(now) is None:
        return flux.Verdict(flux.State.WAITING, "NoArtifact", "it has no artifact yet")
    return verdict


async def _make(cluster: Cluster, chart: Object, name: str, *, copy_of: str | None = None) -> None:
    """A chart as that one, under this name."""
    meta = chart["metadata"]
    notes = {k: v for k, v in (meta.get("annotations") or {}).items() if k != COPY_OF}
    notes |= {COPY_OF: copy_of} if copy_of else {}
    made = {"name": name, "namespace": meta["namespace"], "labels": meta.get("labels") or {}, "annotations": notes}
    try:
        await cluster.create(HELM_CHART, {"metadata": made, "spec": chart["spec"]})
    except Exists:
        return


async def releases_ready(cluster: Cluster, before: Mapping[Key, Object], timeout: float, *, again: bool) -> None:
    """Every HelmRelease that is not suspended is Ready (with `again`: again), and none was upgraded by all this."""
    active = [key for key, release in before.items() if not release["spec"].get("suspend")]
    after = await brought(cluster, HELM_RELEASE, dict.fromkeys(active), timeout, again=again)
    if upgraded := moved(before, after, active):
        message = f"{', '.join(upgraded[:5])}: a new Helm revision of the same chart, version and values"
        raise Stuck("ReleaseUpgraded", f"{message}; pivoting a source must not do that")


def moved(before: Mapping[Key, Object], after: Seen, keys: Collection[Key]) -> list[str]:
    """Releases with a new Helm revision though neither chart nor values changed."""
    found = []
    for key in keys:
        old, new = _newest(before[key]), _newest(after[key])
        same = all(old.get(part) == new.get(part) for part in ("chartName", "chartVersion", "configDigest"))
        if old and same and old.get("version") != new.get("version"):
            found.append("/".join(key))
    return found


def _newest(release: Object) -> Mapping[str, object]:
    history = (release.get("status") or {}).get("history") or [{}]
    newest: Mapping[str, object] = history[0]
    return newest
