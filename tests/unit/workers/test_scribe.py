"""Nothing secret passes the scribe, nor what no message could carry; and a cancelled run stays cancelled. Pure."""

from __future__ import annotations

from typing import Any

import pytest
from histories import START, accepted, chain, started, succeeded, whole_run
from hypothesis import given
from hypothesis import strategies as st

from events.envelope import Event
from events.flow import SLUGS
from events.fold import Run, fold
from events.picture import picture
from schemas import events as facts
from schemas.progress import Progress
from workers.scribe import Scribe, clipped

SECRET = 'pa"ss\\wörd'
SCRIBE = Scribe("sovereign.test", "w", lambda text: text.replace(SECRET, "***"))
RUN = Run("r1", "ann", START, 1, 1)


def request(**more: Any) -> Event:
    return Event(specversion="1.0", id="i", source="s", type="t", **more)


SAID = f"tried https://u:{SECRET}@gitea"
FACTS = [
    facts.StepProgress(step="gitea-mirror", worker="w", token=1, progress=Progress(message=SAID)),
    facts.StepWaiting(step="gitea-mirror", worker="w", token=1, reason="R", message=SAID, after_seconds=1, tries=1),
    facts.StepFailed(step="gitea-mirror", worker="w", token=1, reason="R", message=SAID),
    facts.StepSucceeded(
        step="gitea-mirror", worker="w", token=1, result={"summary": SAID, "deep": [{"er": [SAID]}], "changes": 1}
    ),
    facts.Failed(step="gitea-mirror", reason="R", message=SAID),
    facts.Audited(findings=({"place": SAID, "tether": 1},), clean=False),
    facts.Cancelled(operator=SAID, reason=SAID, request=1),
]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_a_secret_in_whatever_field_stands_in_no_event(fact: Any) -> None:
    draft = SCRIBE.run(RUN, "x", fact)
    raw = draft.sealed(1, "0" * 64).encode().decode()
    assert "***@gitea" in raw
    assert "wörd" not in raw
    assert "w\\u00f6rd" not in raw


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_what_holds_nothing_secret_is_the_very_same_fact(fact: Any) -> None:
    assert Scribe("sovereign.test", "w", lambda text: text).run(RUN, "x", fact).data is fact


@given(st.text(max_size=60))
def test_only_a_trace_that_is_one_is_taken_over(word: str) -> None:
    good = f"00-{'a' * 32}-{'b' * 16}-01"
    draft, _ = SCRIBE.accepted(1, accepted(), request(traceparent=good))
    assert draft.traceparent == good
    odd, _ = SCRIBE.accepted(1, accepted(), request(traceparent=word))
    assert odd.traceparent != word
    assert len((odd.traceparent or "").split("-")) == 4
    odd.sealed(1, "0" * 64).encode()


@given(st.integers(0, 200))
def test_a_text_is_cut_at_its_end_and_says_how_much_more_there_was(size: int) -> None:
    text = "x" * size
    cut = clipped(text, 100)
    assert cut == text if size <= 100 else cut == f"{'x' * 100}… ({size - 100} characters more)"


def test_what_a_worker_still_said_of_a_cancelled_run_changes_nothing() -> None:
    before = [accepted(), started("gitea-mirror"), facts.Cancelled(operator="ann", request=9)]
    late = [
        succeeded("gitea-mirror", 2), started("gitea-mirror"),
        facts.Failed(step="gitea-mirror", reason="R", message="m"),
        facts.Completed(evidence_digest="0" * 64, rehearsal=False),
    ]  # fmt: skip
    shown, after = picture(fold(chain(before))), picture(fold(chain([*before, *late])))
    del shown["streamSequence"], after["streamSequence"]
    assert after == shown
    assert after["runPhase"] == "cancelled"
    whole = whole_run()
    stopped = [*whole[:-1], facts.Cancelled(operator="ann", request=90), whole[-1]]
    assert not fold(chain(stopped)).complete


@pytest.mark.parametrize("missing", range(len(SLUGS)))
def test_completed_means_nothing_unless_every_step_of_its_run_succeeded(missing: int) -> None:
    whole = whole_run()
    assert fold(chain(whole)).complete
    place = 2 + 2 * missing
    forged = [*whole[:place], facts.StepFailed(step=SLUGS[missing], worker="w", token=place, reason="R", message="m")]
    state = fold(chain([*forged, *whole[place + 1 :]]))
    assert not state.complete
    assert picture(state)["cutoverComplete"] == "false"


def test_earlier_readers_find_the_keys_that_they_show() -> None:
    whole = whole_run()
    before = picture(fold(chain(whole[:1])))
    assert not {"mirroredCommitSHA", "harborProjectCount", "registriesYamlActive", "egressTestPassed"} & before.keys()
    after = picture(fold(chain(whole)))
    assert (after["mirroredCommitSHA"], after["harborProjectCount"]) == ("a", "1")
    assert (after["registriesYamlActive"], after["egressTestPassed"]) == ("v2", "true")
