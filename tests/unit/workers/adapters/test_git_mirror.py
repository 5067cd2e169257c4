"""What a mirror decides, as a law over any refs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.adapters.git_mirror import aside, covered, plan

NAMES = st.sampled_from(["main", "next", "a/b", "a", "upstream", "upstream/main"])
REFS = st.dictionaries(
    st.builds(lambda kind, name: f"refs/{kind}/{name}", st.sampled_from(["heads", "tags"]), NAMES),
    st.sampled_from(["0", "1", "2", "2x", "3"]),
)


def is_ancestor(old: str, new: str) -> bool:
    """Commits in a line 0 1 2 3; `2x` is beside 2."""
    return (old <= new and "x" not in old and (new != "2x" or old < "2")) or old == new


def possible(refs: dict[str, str]) -> dict[str, str]:
    """Without the names that Git could not hold together."""
    kept: dict[str, str] = {}
    for ref, sha in refs.items():
        if not any(other.startswith(f"{ref}/") or ref.startswith(f"{other}/") for other in kept):
            kept[ref] = sha
    return kept


@given(REFS, REFS)
def test_nothing_is_ever_forced_and_no_name_collides(upstream: dict[str, str], local: dict[str, str]) -> None:
    upstream, local = possible(upstream), possible(local)
    made = plan(upstream, local, is_ancestor)
    for ref, sha in made.push.items():
        assert ref not in local or (is_ancestor(local[ref], sha) and ref.startswith("refs/heads/"))
    after = {**local, **made.push}
    assert possible(after) == after


@given(REFS, REFS)
def test_every_upstream_ref_is_held_or_said_not_to_be(upstream: dict[str, str], local: dict[str, str]) -> None:
    upstream, local = possible(upstream), possible(local)
    made = plan(upstream, local, is_ancestor)
    after = {**local, **made.push}
    said = " ".join(made.notices)
    for ref, sha in upstream.items():
        assert covered(ref, sha, after, frozenset(made.ahead)) or ref in said or aside(ref) in said


@given(REFS, REFS)
def test_a_second_plan_has_nothing_to_push(upstream: dict[str, str], local: dict[str, str]) -> None:
    upstream, local = possible(upstream), possible(local)
    made = plan(upstream, local, is_ancestor)
    assert plan(upstream, {**local, **made.push}, is_ancestor).push == {}
