"""Who else than Git writes an object, by what it says of itself: a live patch would be taken back by them. Pure.

Sources: fluxcd/flux-operator (labels of what a FluxInstance or a ResourceSet applies; it sets no ownerReferences),
`metav1.OwnerReference.controller`, kubernetes.io "Recommended Labels", helm-controller (origin labels).
"""

from __future__ import annotations

from workers import flux
from workers.adapters.cluster_kinds import HELM_RELEASE, Object
from workers.declared.changes import Change, holds
from workers.errors import Stuck

OPERATORS = {
    "resourceset.fluxcd.controlplane.io": ("ResourceSet", "its resources or inputs"),
    "fluxcd.controlplane.io": ("FluxInstance", "its spec.sync or spec.kustomize.patches"),
}
MANAGED_BY = "app.kubernetes.io/managed-by"
BY_NOBODY = frozenset({"helm", "flux", "kubectl", "kustomize", "cloud-init", "k3s", "catalyst-cutover"})
"""What is left behind by who applies once and goes. Helm and Flux say by labels of their own what they come back to;
`flux` is also what people write to please an admission policy (field lessons B0.22)."""


def to_be_patched(change: Change, obj: Object, field_manager: str = "catalyst-cutover") -> None:
    """Raises Stuck `DeclaredElsewhere` when a live patch of this object would be undone by who makes it.

    Nothing is raised for what Git declares, and for what is as it shall be already.
    """
    if flux.owner(obj, flux.OWNED_BY_KUSTOMIZATION) is not None or holds(change, obj):
        return
    if found := maker(obj, field_manager):
        who, what = found
        message = f"{change} is made by {who}, which would take a live patch back"
        raise Stuck("DeclaredElsewhere", f"{message}; change {what}, then run the step again")


def maker(obj: Object, field_manager: str = "catalyst-cutover") -> tuple[str, str] | None:
    """Who makes the object anew, and what is to be changed there; None for nobody that it names."""
    meta = obj["metadata"]
    labels = meta.get("labels") or {}
    for system, (kind, where) in OPERATORS.items():
        if owner := flux.owner(obj, system):
            return f"{kind} {'/'.join(filter(None, owner))}", f"{where} so that it says so"
    for ref in meta.get("ownerReferences") or ():
        if ref.get("controller"):
            return f"{ref.get('kind')} {ref.get('name')}", "it there"
    if obj.get("kind") == HELM_RELEASE.kind and (umbrella := _umbrella(obj)):
        return umbrella, "the values or the chart that render it"
    manager = str(labels.get(MANAGED_BY) or "")
    known = {*BY_NOBODY, field_manager.lower()}
    if manager and manager.lower() not in known and not manager.lower().startswith("kustomize-"):
        return f"{manager} (its label {MANAGED_BY})", "it there, or take that label away where nobody makes it any more"
    return None


def _umbrella(release: Object) -> str | None:
    """The release whose chart rendered this HelmRelease."""
    if owner := flux.owner(release, flux.OWNED_BY_RELEASE):
        return f"HelmRelease {'/'.join(filter(None, owner))}"
    meta = release["metadata"]
    if (meta.get("labels") or {}).get(MANAGED_BY) != "Helm":
        return None
    notes = meta.get("annotations") or {}
    return f"Helm release {notes.get('meta.helm.sh/release-name', 'unknown')}"
