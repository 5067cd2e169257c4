"""One image asked for at its own registry as anybody, as a node without a pull secret would ask."""

from __future__ import annotations

import anyio

from schemas.canary import Asked
from workers.adapters.oci.manifest import BadManifest
from workers.adapters.oci.reference import Reference
from workers.adapters.oci.registries import session
from workers.adapters.oci.registry import Registry
from workers.adapters.oci.trouble import Denied, Patience, WireTrouble
from workers.adapters.oci.wire import Wire

LIMIT = 40.0  # seconds for the whole look, tokens and repeats included
FEW = Patience(attempts=3, longest=5.0)


async def ask(image: str, url: str) -> Asked:
    """What the registry at `url` says of the image to who shows no login. Never raises: no answer is one too."""
    reference = Reference.parse(image)
    digest, refused, trouble = None, "", ""
    try:
        async with session() as http:
            registry = Registry(Wire(http, url, reference.host, None), FEW)
            with anyio.fail_after(LIMIT):
                digest = await registry.resolve(reference.repository, reference.pin)
    except Denied as denied:
        refused = str(denied)
    except (WireTrouble, BadManifest) as error:
        trouble = str(error)
    except TimeoutError:
        trouble = f"{reference.host}: no answer within {LIMIT:g} s"
    return Asked(image=image, digest=digest or "", refused=refused[:500], trouble=trouble[:500])
