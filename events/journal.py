"""The journal as one process sees it: the folded state, kept current, and the one way to append to it."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
from pydantic import ValidationError

from events.envelope import Draft, Undecodable, data_of, read
from events.fold import State, evolve, fold
from events.log import Conflict, Emit, Entry, Keeper, Unreadable
from schemas.events import StepSucceeded
from schemas.results import RESULTS


class Journal:
    """Folded state of the log, fed by `refresh` and `tail`; safe to share between the tasks of one process."""

    def __init__(self, keeper: Keeper, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.keeper = keeper
        self.state = State()
        self._monotonic = monotonic
        self._lock = anyio.Lock()
        self._moved = anyio.Event()
        self.moved_at = monotonic()
        """Our own monotonic time when the journal was last seen to move. Leases are judged by nothing else."""
        self.watched_since: float | None = None
        """Monotonic time since when we have been following without a gap; None while we are not."""

    async def refresh(self) -> State:
        """The state as of the leader's newest entry."""
        async with self._lock:
            last = await self.keeper.last()
            if last is not None and last.seq > self.state.seq:
                if last.seq == self.state.seq + 1:
                    self._take(evolve(self.state, last))
                else:
                    self._take(fold(await self.keeper.since(self.state.seq), self.state))
            return self.state

    async def append(self, draft: Draft, then: Emit | None = None, *, if_seq: int | None = None) -> int:
        """Append behind the newest event, with the trigger `then` in one batch; the sequence it got.

        With `if_seq`, only if the journal still ends there. Raises Conflict when someone was faster, Unreadable when
        the fold would not take the event back."""
        async with self._lock:
            state = self.state
            if if_seq is not None and state.seq != if_seq:
                raise Conflict(f"the journal is at {state.seq}, decided at {if_seq}")
            raw = _readable(draft.sealed(state.length + 1, state.hash))
            seq = await self.keeper.append(raw, id=draft.id, expected=state.seq, then=then)
            self._take(evolve(state, Entry(seq, "", raw)))
            return seq

    async def tail(self) -> None:
        """Follow the journal for ever. Run it in a task beside the workers."""
        await self.refresh()
        self.watched_since = self._monotonic()
        async for entry in self.keeper.follow(self.state.seq):
            async with self._lock:
                self._take(evolve(self.state, entry))

    async def moved(self, seq: int) -> State:
        """Return when the state has gone past `seq`."""
        while self.state.seq <= seq:
            await self._moved.wait()
        return self.state

    def silent_for(self) -> float:
        """Seconds for which we have watched the journal without seeing it move."""
        if self.watched_since is None:
            return 0.0
        return self._monotonic() - max(self.moved_at, self.watched_since)

    def _take(self, state: State) -> None:
        if state.seq == self.state.seq:
            return
        self.state = state
        self.moved_at = self._monotonic()
        self._moved.set()
        self._moved = anyio.Event()


def _readable(draft: Draft) -> bytes:
    """Its bytes, when they say again what it says. Raises Unreadable."""
    try:
        raw = draft.encode()
        data = data_of(read(raw))
        if isinstance(data, StepSucceeded) and data.step in RESULTS:
            RESULTS[data.step].model_validate(data.result)
    except Undecodable as error:
        raise Unreadable(str(error)) from None
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False)[:3])
        raise Unreadable("; ".join(wrong)) from None
    except (ValueError, TypeError) as error:  # what JSON or CloudEvents cannot hold
        raise Unreadable(f"{type(error).__name__}: {error}") from None
    return raw
