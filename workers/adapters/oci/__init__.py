"""OCI registries: the only room of the distribution protocol."""

from __future__ import annotations

from workers.adapters.oci.copier import Copier
from workers.adapters.oci.copying import CopyPlan, Item, Meter, Proof, Wanted, placed
from workers.adapters.oci.places import What, literal_projects, local_repository, proxied_projects
from workers.adapters.oci.reference import BadReference, Reference, chart_tag
from workers.adapters.oci.registries import Registries
from workers.adapters.oci.trouble import Patience

__all__ = [
    "BadReference",
    "Copier",
    "CopyPlan",
    "Item",
    "Meter",
    "Patience",
    "Proof",
    "Reference",
    "Registries",
    "Wanted",
    "What",
    "chart_tag",
    "literal_projects",
    "local_repository",
    "placed",
    "proxied_projects",
]
