"""The routes. Each asks who it is, publishes or reads, and answers; nothing is decided here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path as File
from typing import Annotated, Any, Final

import orjson
from fastapi import Body, FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from events import flow, subjects
from events.flow import Step
from events.fold import State
from events.jetstream import JetStreamLog, LogReplaced
from schemas import events as facts
from workers.admission import why_not_cancel
from workers.decision import Refuse, decide
from workers.entrypoints.api import models
from workers.entrypoints.api.connections import Tally
from workers.entrypoints.api.feed import Feed
from workers.entrypoints.api.front import Front
from workers.entrypoints.api.limits import Bounded
from workers.entrypoints.api.live import EventStream, Readers
from workers.entrypoints.api.metrics import TYPE, Exposition, Projection
from workers.entrypoints.api.openapi import document
from workers.entrypoints.api.problems import Problem, documented, handle, rendered
from workers.entrypoints.api.who import Caller, Doorman
from workers.entrypoints.settings import Settings

log = logging.getLogger("cutover.api")

BASE: Final = "/api/v1/sovereign/cutover"
CONSOLE: Final = File(__file__).resolve().parents[1] / "console"
KINDS: Final = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml", ".ico": "image/x-icon", ".json": "application/json", ".png": "image/png",
}  # fmt: skip
PARTS: Final = {file.name: KINDS[file.suffix] for file in CONSOLE.iterdir() if file.suffix in KINDS}
"""The console's files. Nobody who asks makes a name of the file system out of what was sent."""
SAFE: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
Slug = Annotated[str, Path(json_schema_extra={"enum": list(flow.SLUGS)})]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]


Place = Annotated[int, Field(ge=0, le=2**63 - 1)]
Blank = BeforeValidator(lambda value: None if value == "" else value)
"""A reader that has no place yet may say so with nothing between the quotes."""


class Json(JSONResponse):
    """Encoded by orjson."""

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


Opening = Callable[[], AbstractAsyncContextManager[Doorman]]


def application(settings: Settings, opening: Opening, tally: Tally | None = None) -> FastAPI:
    """The ASGI app; its lifespan keeps the connections to the log, the issuer and the cluster."""
    limits = settings.api.limits
    feed = Feed()
    front = Front(settings, feed, patience=limits.answer, look=limits.look)
    readers = Readers(limits.readers, limits.readers_each)
    door = Door()
    exposition = Exposition(Projection(feed, readers, tally or Tally()))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with opening() as door.doorman:
            following = asyncio.create_task(follow(settings, front, feed))
            yield
            readers.closing.set()
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    app = FastAPI(
        title="Achieve True Sovereignty", version=version("catalyst-cutover"), lifespan=lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False, openapi_url="/openapi.json", default_response_class=Json,
    )  # fmt: skip
    app.state.front, app.state.readers, app.state.insecure = front, readers, False
    app.add_exception_handler(Problem, handle)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _elsewhere)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Bounded, limits=limits)
    _actions(app, front, door, settings)
    _readings(app, front, door)
    _events(app, front, door, readers)
    _house(app, front, settings, exposition)
    app.openapi = lambda: document(app, BASE)  # type: ignore[method-assign]
    return app


async def follow(settings: Settings, front: Front, feed: Feed) -> None:
    """Keep the feed current for ever; whatever breaks is said and tried again."""

    def heard(line: str) -> None:
        log.info(line)
        feed.nudge()

    while True:
        try:
            async with JetStreamLog.open(settings.nats, patient=True, say=heard) as stream:
                front.open(stream)
                await feed.follow(stream)
        except LogReplaced as why:
            log.error("%s: reading it from its start", why)
        except Exception:
            log.exception("the log cannot be followed; trying again")
        await asyncio.sleep(2)


class Door:
    """Who may pass. Its keeper comes when the process starts."""

    doorman: Doorman

    async def reader(self, request: Request) -> Caller:
        """Raises Problem 401, 403, 503."""
        caller = await self.doorman.caller(request)
        if not (caller.may_read or caller.may_act):
            raise Problem(403, "forbidden", f"{caller.authid} has no role that may read this")
        return caller

    async def operator(self, request: Request) -> Caller:
        """Raises Problem 401, 403, 503."""
        caller = await self.doorman.caller(request)
        if not caller.may_act:
            raise Problem(403, "forbidden", f"{caller.authid} has no role that may do this")
        return caller


# --- actions --------------------------------------------------------------------------------------------------


def _actions(app: FastAPI, front: Front, door: Door, settings: Settings) -> None:
    guarded = documented(400, 401, 403, 408, 409, 413, 415, 431, 503, 504)

    @app.post(
        f"{BASE}/start", status_code=202, response_model=models.Started, summary="Begin a cutover",
        responses={200: {"model": models.Snapshot, "description": "It is complete already; nothing was begun"},
                   **guarded, **documented(424, 425)},
    )  # fmt: skip
    async def start(request: Request, body: Annotated[models.Start | None, Body()] = None, key: Key = None) -> Response:
        caller = await door.operator(request)
        asked = body or models.Start()
        data = facts.Requested(
            operator=caller.authid, reason=asked.reason, unless_complete=not asked.again, preflight=asked.preflight
        )
        limits = settings.api.limits
        # Whoever asks for the plan waits for it; whoever does not say gets it too, as a rule within seconds.
        longer = {True: limits.look, None: limits.answer, False: 0.0}[asked.preflight]
        answer = await front.ask(caller, subjects.REQUESTED, "cutover", data, key, longer=longer)
        if answer.reason == "AlreadyComplete":
            return Json(front.snapshot())
        return Json(front.told(answer), 202)

    @app.post(
        f"{BASE}/cancel", status_code=202, response_model=models.Started, responses=guarded,
        summary="Stop the active run at the next safe point",
    )  # fmt: skip
    async def cancel(
        request: Request, body: Annotated[models.Cancel | None, Body()] = None, key: Key = None
    ) -> Response:
        caller = await door.operator(request)
        asked = body or models.Cancel()
        data = facts.CancelRequested(run=asked.run, operator=caller.authid, reason=asked.reason)
        answer = await front.ask(
            caller, subjects.CANCEL, "cutover", data, key, judge=lambda state: refused_cancel(state, data)
        )
        return Json(front.told(answer), 202)

    @app.post(
        f"{BASE}/steps/{{slug}}/retry", status_code=202, response_model=models.Started,
        responses={**guarded, **documented(404)}, summary="Do one step of the newest run again",
    )  # fmt: skip
    async def retry(
        request: Request, slug: Slug, body: Annotated[models.Retry | None, Body()] = None, key: Key = None
    ) -> Response:
        caller = await door.operator(request)
        step = flow.BY_SLUG.get(slug)
        if step is None:
            raise Problem(404, "no-such-step", f"no step of that name; there are {', '.join(flow.SLUGS)}")
        run = (body.run if body else None) or front.snapshot()["runId"]
        if not run:
            raise Problem(409, "no-run", "there is no run to act on: start one")
        data = facts.Trigger(run=run, step=slug, reason=body.reason if body else None)
        answer = await front.ask(
            caller, subjects.trigger(step), slug, data, key, judge=lambda state: refused_trigger(state, step, data)
        )
        return Json(front.told(answer), 202)

    @app.post(
        f"{BASE}/login", status_code=202, response_model=models.LoggedIn, responses=guarded,
        summary="Say that somebody has logged in: the first operator's may start auto-fire's grace period",
    )  # fmt: skip
    async def login(request: Request) -> Response:
        caller = await door.reader(request)
        return Json({"autoFire": await front.logged_in(caller)}, 202)


LATER: Final = 2**63 - 1
"""The sequence of an input that is yet to be published: behind everything."""


def refused_cancel(state: State, data: facts.CancelRequested) -> tuple[str, str] | None:
    """Admission's own rule; what it passes over in silence is told here."""
    refusal = why_not_cancel(state, data, LATER)
    return (refusal[0] or "NoActiveRun", refusal[1]) if refusal else None


def refused_trigger(state: State, step: Step, data: facts.Trigger) -> tuple[str, str] | None:
    """The pool's own rule."""
    decision = decide(state, step, data, LATER, lease_over=False)
    return (decision.reason, decision.message) if isinstance(decision, Refuse) else None


# --- readings -------------------------------------------------------------------------------------------------


def _readings(app: FastAPI, front: Front, door: Door) -> None:
    guarded = documented(401, 403, 408, 413, 415, 431, 503)

    @app.get(f"{BASE}/status", response_model=models.Snapshot, responses=guarded, summary="Where the cutover stands")
    async def status(request: Request) -> Response:
        await door.reader(request)
        return Json(front.snapshot(), headers={"Cache-Control": "no-store"})

    @app.get(f"{BASE}/plan", response_model=list[dict[str, Any]], responses=guarded, summary="What it would change")
    async def plan(request: Request) -> Response:
        await door.reader(request)
        return Json([asdict(step) for step in await front.look("plan")])

    @app.get(f"{BASE}/audit", response_model=dict[str, Any], responses=guarded, summary="What still leads outside")
    async def audit(request: Request) -> Response:
        await door.reader(request)
        return Json(await front.look("audit"))

    @app.get(
        f"{BASE}/certificate", response_model=dict[str, Any], responses={**guarded, **documented(404)},
        summary="What the log proves, signed",
    )  # fmt: skip
    async def certificate(request: Request) -> Response:
        await door.reader(request)
        return Response(await front.certificate(), media_type="application/json")


# --- events ---------------------------------------------------------------------------------------------------


def _events(app: FastAPI, front: Front, door: Door, readers: Readers) -> None:
    guarded = documented(400, 401, 403, 408, 413, 415, 431, 503)
    schema = {
        "type": "object", "required": ["event", "data"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]+$", "description": "Stream sequence; `status` has none"},
            "event": {"type": "string", "description": "Kind of the fact, or `status`, `lagged`"},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    }  # fmt: skip
    stream = {"description": "Events without end", "content": {EventStream.media_type: {"schema": schema}}}

    @app.post(
        f"{BASE}/ticket", response_model=Ticket, responses=documented(400, 401, 403, 408, 413, 415, 431, 503),
        summary="A word that opens one stream of events, for those who cannot send a header",
    )  # fmt: skip
    async def ticket(request: Request) -> Response:
        caller = await door.reader(request)
        word, ends = await door.doorman.ticket(caller)
        return Json({"ticket": word, "expires": int(ends)}, headers={"Cache-Control": "no-store"})

    @app.get(
        f"{BASE}/events", response_class=Response, responses={200: stream, **guarded, **documented(429)},
        summary="Every event of the log: replay, then live",
    )  # fmt: skip
    async def events(
        request: Request,
        last: Annotated[Place | None, Blank, Header(alias="Last-Event-ID")] = None,
        since: Annotated[Place | None, Blank, Query(alias="lastEventId")] = None,
        word: Annotated[str | None, Query(alias="ticket", max_length=4096)] = None,
        go_on: Annotated[bool, Query(alias="follow")] = True,
    ) -> Response:
        """Without a place to go on from, the newest run is replayed; 0 means the whole log.

        With `follow=false` the stream ends with what there is."""
        caller = await (door.doorman.bearer_of(word) if word is not None else door.reader(request))
        front.snapshot()  # 503 until the log has been read
        after = last if last is not None else since
        if after is None:
            run = front.feed.state.run
            after = run.accepted - 1 if run else 0
        if not readers.enter(caller.authid):
            log.warning("too many readers: %d in all, refused %s", readers.count, caller.authid)
            raise Problem(429, "too-many-readers", "too many streams of events are open", {"Retry-After": "10"})
        rest = None if caller.until is None else max(0.0, caller.until - time.time())
        return EventStream(front.feed, front.stream, readers, caller.authid, after, until=rest, once=not go_on)


class Ticket(BaseModel):
    """For `events?ticket=`; works once, and soon."""

    ticket: str
    expires: int
    """Unix time."""


# --- the house ------------------------------------------------------------------------------------------------


def _house(app: FastAPI, front: Front, settings: Settings, exposition: Exposition) -> None:
    safe = _safe(settings)

    @app.get("/healthz", response_model=dict[str, str], summary="The process lives")
    async def healthz() -> Response:
        return Json({"status": "ok"})

    @app.get("/readyz", response_model=dict[str, str], responses=documented(503), summary="It can answer")
    async def readyz() -> Response:
        if not front.feed.live:
            raise Problem(503, "not-ready", "the log has not been read, or the broker is away")
        return Json({"status": "ready"})

    @app.get("/metrics", response_class=PlainTextResponse, summary="For Prometheus")
    async def metrics() -> Response:
        return Response(exposition.text(), media_type=TYPE)

    @app.get("/console.json", response_model=dict[str, str], summary="How the card logs people in")
    async def login(request: Request) -> Response:
        identity = settings.api.identity
        if request.app.state.insecure:
            return Json({"auth": "none"})
        if identity is None or settings.api.login_client is None:
            return Json({"auth": "token"})
        return Json({"auth": "oidc", "issuer": identity.issuer, "client": settings.api.login_client})

    @app.get("/", include_in_schema=False)
    async def card() -> Response:
        return _file("index.html", safe)

    @app.get("/console/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        return _file(name, safe)


def _safe(settings: Settings) -> dict[str, str]:
    """Headers of every page: nothing is loaded from anywhere else. Only a login may ask the issuer."""
    identity, policy = settings.api.identity, "default-src 'self'"
    if identity is not None and settings.api.login_client is not None:
        scheme, _, rest = identity.issuer.partition("://")
        policy += f"; connect-src 'self' {scheme}://{rest.partition('/')[0]}"
    return {**SAFE, "Content-Security-Policy": f"{policy}; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"}


def _file(name: str, safe: Mapping[str, str]) -> Response:
    """A file of the console; only what lies there by that very name."""
    kind = PARTS.get(name)
    if kind is None:
        raise Problem(404, "not-found", "there is no such page")
    return FileResponse(CONSOLE / name, media_type=kind, headers={**safe, "Cache-Control": "no-cache"})


async def _unreadable(request: Request, error: Exception) -> Response:
    """What the request got wrong, without repeating it."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for nothing else
    said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
    return await handle(request, Problem(400, "invalid-request", said))


async def _elsewhere(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for nothing else
    slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "invalid-request")
    return await handle(request, Problem(error.status_code, slug, str(error.detail), error.headers))


async def _broken(request: Request, error: Exception) -> Response:
    """A defect of ours; its text may hold anything, and goes to the log only."""
    return rendered(Problem(500, "internal-error", "this is a defect; the log of the API has more"), "")
