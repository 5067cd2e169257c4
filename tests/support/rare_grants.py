"""Grants that a run in a box has no use for: what for they are there.

tests/integration/cluster/test_rare_grants.py uses every one of them, as the account that has it.
"""

from __future__ import annotations

_NOT_HERE = "a kind that this box does not serve; read where its definition is installed (workers/audit/survey.py)"
_OPTIONAL = (
    "list helmcharts.helm.cattle.io", "list imagerepositories.image.toolkit.fluxcd.io",
    "list buckets.source.toolkit.fluxcd.io", "list plans.upgrade.cattle.io",
)  # fmt: skip
_DECLARED = "a source or a package that a Git repository declares is read back after Flux applied it"
_LIVE = "one that no Git declares is patched where it is"
_CROSSPLANE = "Crossplane 1.20 and newer rewrites packages by ImageConfigs"
_ASKED = "sources that fetch at an interval of their own"
_WATCH = "follows the list where that does not show the end already"

RARE: dict[str, str] = {
    **{f"cutover-{name}: {each}": _NOT_HERE for name in ("supply", "proof", "control", "api") for each in _OPTIONAL},
    **{f"cutover-control: {each.replace('list', 'watch')}": _NOT_HERE for each in _OPTIONAL},
    **{
        f"cutover-{name}: list clusters.postgresql.cnpg.io": "databases of CloudNativePG's operator have images too"
        for name in ("supply", "control", "api")
    },
    "cutover-lifter: list clusternetworkpolicies.policy.networking.k8s.io": _NOT_HERE,
    "cutover-proof: list clusternetworkpolicies.policy.networking.k8s.io": _NOT_HERE,
    "cutover-proof: get customresourcedefinitions.apiextensions.k8s.io/ciliumclusterwidenetworkpolicies.cilium.io": (
        "the weaker means: addresses denied"
    ),
    "cutover-proof: patch helmrepositories.source.toolkit.fluxcd.io in flux-system": _ASKED,
    "cutover-pivot: get configmaps in catalyst-system": "a value that the Deployment takes from a ConfigMap",
    "cutover-pivot: patch deployments.apps/catalyst-api in catalyst-system": "neither Git nor Helm declares it",
    "cutover-pivot: watch deployments.apps/catalyst-api in catalyst-system": _WATCH,
    **{f"cutover-pivot: get {kind}.pkg.crossplane.io": _DECLARED for kind in ("configurations", "functions")},
    "cutover-pivot: get ocirepositories.source.toolkit.fluxcd.io in flux-system": _DECLARED,
    "cutover-pivot: patch providers.pkg.crossplane.io": _LIVE,
    **{f"cutover-pivot: {verb} imageconfigs.pkg.crossplane.io": _CROSSPLANE for verb in ("get", "create", "patch")},
    **{
        f"cutover-pivot: watch {kind}": _WATCH
        for kind in (
            "configurations.pkg.crossplane.io", "functions.pkg.crossplane.io", "providers.pkg.crossplane.io",
            "pods", "gitrepositories.source.toolkit.fluxcd.io", "helmcharts.source.toolkit.fluxcd.io",
            "ocirepositories.source.toolkit.fluxcd.io", "helmreleases.helm.toolkit.fluxcd.io",
            "kustomizations.kustomize.toolkit.fluxcd.io",
        )
    },
}  # fmt: skip
"""`str(Grant)` -> why it is there all the same."""

RARE_SUBJECTS: dict[str, str] = {
    "operator: catalyst.cutover.cancel": "tests/acceptance/test_events.py: a cancel stops a run",
    "operator: catalyst.cutover.>": "tests/integration/chart/test_broker_permissions.py: plain `nats sub`",
    "operator: $JS.API.STREAM.INFO.CATALYST_CUTOVER": "`cutover` tells the head by it",
    **{
        f"{user}: $JS.API.CONSUMER.DELETE.CATALYST_CUTOVER.*": "the end of a reader of more than a few entries at once"
        for user in ("supply", "pivot", "proof", "api")
    },
}
"""`user: subject` -> the same. Met by benchmarks/every_grant.py, or told there as not asked for."""
