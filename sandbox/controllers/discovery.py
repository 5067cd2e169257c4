"""Which resource an apiVersion and kind stand for: asked of the API server, remembered."""

from __future__ import annotations

from sandbox.controllers.api import Api, Resource


class Discovery:
    """A RESTMapper. A kind that is unknown is asked for again: its definition may come later."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[tuple[str, str], Resource] = {}

    async def resource(self, api_version: str, kind: str) -> Resource:
        """Raises LookupError when the API server does not serve it."""
        found = self._known.get((api_version, kind))
        if found is None:
            await self._learn(api_version)
            found = self._known.get((api_version, kind))
        if found is None:
            raise LookupError(f'no matches for kind "{kind}" in version "{api_version}"')
        return found

    async def _learn(self, api_version: str) -> None:
        group, _, version = api_version.rpartition("/")
        path = f"/apis/{api_version}" if group else f"/api/{version}"
        status, answer = await self._api.local.request("GET", path)
        if status != 200:
            return
        for each in answer.get("resources") or []:
            if "/" not in each["name"]:
                known = Resource(group, version, each["name"], each["kind"], bool(each["namespaced"]))
                self._known[api_version, each["kind"]] = known
