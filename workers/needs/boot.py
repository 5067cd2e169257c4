"""The boot-strap loop: what a node must pull before local Harbor can serve it anything. Pure.

After the pivot a node that starts with an empty image store asks local Harbor for the images of Harbor itself, of its
database, of the network under it. They are kept like all others, and each says aloud that it is one of these, so that
whoever runs the nodes can pin or import them (k3s: agent/images).
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from workers.adapters.oci import BadReference, Reference, What
from workers.needs.need import Need, Needs
from workers.sovereign import Boot, Sovereign


def boot(sovereign: Sovereign, needs: Iterable[Need], on_nodes: Iterable[str]) -> Needs:
    """A reason more for every image that is a part of the loop; parts that nothing shows, from the nodes or settings.

    `on_nodes`: images that nodes say they hold. A part of which nothing is known anywhere is a notice.
    """
    images = {n.spelled: n for n in needs if n.what is What.IMAGE}
    held = list(dict.fromkeys(on_nodes))
    found: list[Need] = []
    notices: list[str] = []
    for part in sovereign.boot:
        shown = [n for n in images.values() if _is(part, n.spelled)]
        found += [Need(What.IMAGE, n.spelled, _reason(part), n.optional) for n in shown]
        if any(not n.optional for n in shown):
            continue
        seen = [image for image in held if _is(part, image)]
        found += [Need(What.IMAGE, image, f"{_reason(part)}; held by a node") for image in seen]
        if seen:
            continue
        if part.image:
            reason = f"{_reason(part)}; by default, nothing shows it"
            found.append(Need(What.IMAGE, part.image, reason, optional=True))
        elif not shown:
            notices.append(f"{_reason(part)}: no such image is seen ({', '.join(part.names)}); see extra_images")
    return Needs(tuple(found), tuple(notices))


def _reason(part: Boot) -> str:
    return f"boot-strap: {part.part}"


def _is(part: Boot, spelled: str) -> bool:
    try:
        name = Reference.parse(spelled).name
    except BadReference:
        return False
    return any(fnmatchcase(name, pattern) for pattern in part.names)
