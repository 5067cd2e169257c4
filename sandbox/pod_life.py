"""One Pod's life, from its images to its end, as its kubelet tells it in the status."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sandbox.controllers.api import Object
from sandbox.puller import Image, PullError

if TYPE_CHECKING:
    from sandbox.kubelet import Kubelets

BACK_OFF = 1.0  # seconds; a real kubelet begins at 10 and doubles up to 300


class Life:
    """One Pod's life on its node."""

    def __init__(self, kubelets: Kubelets, pod: Object) -> None:
        self._kubelets, self._pod = kubelets, pod
        spec = pod["spec"]
        self._once = spec.get("restartPolicy", "Always") != "Always"
        self._containers: list[Object] = spec["containers"]
        self._init: list[Object] = spec.get("initContainers") or []
        self._prepared_by: dict[str, Object] = {}
        known = pod.get("status") or {}
        self._started = known.get("startTime") or kubelets.now()
        self._ip = known.get("podIP") or kubelets.address(spec["nodeName"])
        self._since: dict[str, tuple[bool, str]] = {}
        self._state: dict[str, Object] = {
            c["name"]: status_of(c, {"waiting": {"reason": "ContainerCreating"}}) for c in self._containers
        }

    async def run(self) -> None:
        await self._say("Pending")
        for container in (*self._init, *self._containers):
            await self._image(container)
        for container in self._init:
            await self._prepared(container)
        now = self._kubelets.now()
        for container in self._containers:
            self._put(container, {"running": {"startedAt": now}}, ready=not asks(container), started=True)
        await self._say("Running")
        async with asyncio.TaskGroup() as group:
            for container in self._containers:
                group.create_task(self._container(container))
                group.create_task(self._probed(container))
        codes = [s["state"]["terminated"]["exitCode"] for s in self._state.values()]
        await self._say("Failed" if any(codes) else "Succeeded")

    async def _image(self, container: Object) -> None:
        name = container["image"]
        while True:
            try:
                digest = await self._kubelets.pull(self._pod, container)
            except PullError as error:
                await self._wait(container, "ErrImagePull", str(error))
                await asyncio.sleep(BACK_OFF / 2)
                message = f'Back-off pulling image "{name}": ErrImagePull: {error}'
                await self._wait(container, "ImagePullBackOff", message)
                await asyncio.sleep(BACK_OFF / 2)
            else:
                image = Image.parse(name)
                self._put(
                    container,
                    {"waiting": {"reason": "ContainerCreating"}},
                    imageID=f"{image.host}/{image.repository}@{digest}",
                )
                return

    async def _prepared(self, container: Object) -> None:
        """An init container, until it succeeds; the Pod is Pending meanwhile."""
        while self._kubelets.ours(container):
            began = self._kubelets.now()
            try:
                code, message = await self._kubelets.execute(self._pod, container)
            except Exception as error:
                code, message = 1, f"{type(error).__name__}: {error}"
            ended: Object = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message[:4096]}
            ended |= {"startedAt": began, "finishedAt": self._kubelets.now()}
            self._prepared_by[container["name"]] = status_of(container, {"terminated": ended})
            await self._say("Pending")
            if not code:
                return
            await asyncio.sleep(BACK_OFF)

    async def _wait(self, container: Object, reason: str, message: str) -> None:
        self._put(container, {"waiting": {"reason": reason, "message": message}})
        await self._say("Pending")

    async def _container(self, container: Object) -> None:
        restarts = 0
        while True:
            began = self._kubelets.now()
            try:
                code, message = await self._kubelets.execute(self._pod, container)
            except Exception as error:
                code, message = 1, f"{type(error).__name__}: {error}"
            ended: Object = {"exitCode": code, "reason": "Error" if code else "Completed"}
            ended |= {"startedAt": began, "finishedAt": self._kubelets.now()}
            # The kubelet keeps 4096 bytes of a termination message.
            ended |= {"message": message[:4096]} if message else {}
            if self._once:
                self._put(container, {"terminated": ended}, ready=False, started=False)
                return
            restarts += 1
            waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
            self._put(container, waiting, ready=False, restartCount=restarts, lastState={"terminated": ended})
            await self._say("Running")
            await asyncio.sleep(BACK_OFF)
            running = {"running": {"startedAt": self._kubelets.now()}}
            self._put(container, running, ready=not asks(container), started=True)
            await self._say("Running")

    async def _probed(self, container: Object) -> None:
        """The readiness probe of one that asks somebody out there: not Ready is all that comes of a failure."""
        while targets := asks(container):
            ready = not await self._kubelets.cut_off(self._pod, targets)
            if (
                ready != self._state[container["name"]]["ready"]
                and "running" in self._state[container["name"]]["state"]
            ):
                self._state[container["name"]]["ready"] = ready
                await self._say("Running")
            await asyncio.sleep(1.0)

    def _put(self, container: Object, state: Object, **more: Any) -> None:
        if container["name"] in self._state and container in self._containers:
            self._state[container["name"]] |= {"state": state, **more}
        elif "message" in state.get("waiting", {}):
            # An init container's trouble shows on the Pod; its own list is kept short here.
            self._state[self._containers[0]["name"]] |= {"state": state}

    def _changed(self, kind: str, holds: bool) -> str:
        """When the condition came to be as it is."""
        if kind not in self._since or self._since[kind][0] != holds:
            self._since[kind] = (holds, self._kubelets.now())
        return self._since[kind][1]

    async def _say(self, phase: str) -> None:
        ready = phase == "Running" and all(s["ready"] for s in self._state.values())
        reason = {} if ready else {"reason": "PodCompleted"}
        if not ready and phase != "Succeeded":
            late = " ".join(name for name, each in self._state.items() if not each["ready"])
            reason = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{late}]"}
        kinds = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
        conditions = [
            {
                "type": kind,
                "status": str(holds),
                "lastProbeTime": None,
                "lastTransitionTime": self._changed(kind, holds),
                **({} if holds else reason),
            }
            for kind, holds in kinds.items()
        ]
        status = {
            "phase": phase,
            "startTime": self._started,
            "podIP": self._ip,
            "podIPs": [{"ip": self._ip}],
            "conditions": conditions,
            "containerStatuses": list(self._state.values()),
            **({"initContainerStatuses": list(self._prepared_by.values())} if self._prepared_by else {}),
        }
        await self._kubelets.publish(self._pod, status)


def asks(container: Object) -> list[str]:
    """Whom its readiness probe asks; empty for every other probe, which is taken as passed."""
    command = ((container.get("readinessProbe") or {}).get("exec") or {}).get("command") or []
    return command[1:] if command[:1] == ["call-home"] else []


def status_of(container: Object, state: Object) -> Object:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }
