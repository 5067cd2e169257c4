"""Grants that a run on a healthy Sovereign in a box does not use: for what, and which test shows it."""

from __future__ import annotations

_NOT_HERE = "a kind that this box does not serve; read where its definition is installed (workers/audit/survey.py)"
_OPTIONAL = (
    "list helmcharts.helm.cattle.io", "list imagerepositories.image.toolkit.fluxcd.io",
    "list buckets.source.toolkit.fluxcd.io", "list plans.upgrade.cattle.io",
)  # fmt: skip
_LIVE = "tests/integration/cluster/test_steps.py: objects that no Git declares are patched where they are"
_CROSSPLANE = "Crossplane 1.20 and newer: ImageConfigs rewrite (tests/unit/workers/steps/test_helmrepo_patches.py)"
_COPIES = "copies of the pull secret (tests/unit/workers/test_tethers.py)"
_ASKED = "sources that fetch at an interval of their own (tests/integration/cluster/test_forced_sources.py)"
_WATCH = "follows the list where that does not show the end already (tests/integration/cluster/test_cluster_kube.py)"

RARE: dict[str, str] = {
    **{
        f"cutover-{name}: {each}": _NOT_HERE
        for name in ("supply", "proof", "control")
        for each in _OPTIONAL
    },
    **{f"cutover-control: {each.replace('list', 'watch')}": _NOT_HERE for each in _OPTIONAL},
    "cutover-lifter: list clusternetworkpolicies.policy.networking.k8s.io": _NOT_HERE,
    "cutover-proof: list clusternetworkpolicies.policy.networking.k8s.io": _NOT_HERE,
    "cutover-proof: get customresourcedefinitions.apiextensions.k8s.io/ciliumclusterwidenetworkpolicies.cilium.io": (
        "the weaker means: addresses denied (tests/unit/workers/proof/test_means.py)"
    ),
    **{
        f"cutover-proof: patch {kind}.source.toolkit.fluxcd.io in flux-system": _ASKED
        for kind in ("helmrepositories", "ocirepositories")
    },
    "cutover-pivot: get configmaps in catalyst-system": (
        "a value that the Deployment takes from a ConfigMap (tests/unit/workers/steps/test_catalyst_api_env_patch.py)"
    ),
    "cutover-pivot: patch deployments.apps/catalyst-api in catalyst-system": (
        "a Deployment that neither Git nor Helm declares (tests/unit/workers/steps/test_catalyst_api_env_patch.py)"
    ),
    "cutover-pivot: watch deployments.apps/catalyst-api in catalyst-system": _WATCH,
    **{
        f"cutover-pivot: {verb} {kind}.pkg.crossplane.io": _LIVE
        for verb in ("get", "patch", "watch")
        for kind in ("configurations", "functions", "providers")
    },
    **{f"cutover-pivot: {verb} imageconfigs.pkg.crossplane.io": _CROSSPLANE for verb in ("get", "create", "patch")},
    **{
        f"cutover-pivot: watch {kind}": _WATCH
        for kind in (
            "pods", "gitrepositories.source.toolkit.fluxcd.io", "helmcharts.source.toolkit.fluxcd.io",
            "ocirepositories.source.toolkit.fluxcd.io", "helmreleases.helm.toolkit.fluxcd.io",
            "kustomizations.kustomize.toolkit.fluxcd.io",
        )
    },
    "cutover-pivot: get ocirepositories.source.toolkit.fluxcd.io in flux-system": _LIVE,
    "cutover-pivot: patch ocirepositories.source.toolkit.fluxcd.io in flux-system": _LIVE,
    "cutover-pivot: patch helmrepositories.source.toolkit.fluxcd.io in flux-system": _LIVE,
    "cutover-pivot: create helmcharts.source.toolkit.fluxcd.io in flux-system": (
        "a HelmChart that no release makes again is made again by us (workers/steps/helmrepo_patches/charts.py)"
    ),
    **{f"cutover-pivot: patch secrets in {each}": _COPIES for each in ("catalyst-system", "crossplane-system")},
}  # fmt: skip
"""`str(Grant)` -> why it is there all the same."""

RARE_SUBJECTS: dict[str, str] = {
    "operator: catalyst.cutover.cancel": "tests/acceptance/test_events.py: a cancel stops a run",
    "operator: $JS.API.STREAM.INFO.CATALYST_CUTOVER": "`cutover verify` (tests/acceptance/test_command_line.py)",
    "operator: $JS.API.CONSUMER.CREATE.CATALYST_CUTOVER": "`cutover watch` and `log`",
    "operator: $JS.API.CONSUMER.MSG.NEXT.CATALYST_CUTOVER.*": "`cutover watch` and `log`",
    "operator: $JS.API.CONSUMER.DELETE.CATALYST_CUTOVER.*": "`cutover watch` and `log`",
    "operator: $JS.API.STREAM.MSG.GET.CATALYST_CUTOVER": "`cutover status`",
}
"""`user: subject` -> the same."""
