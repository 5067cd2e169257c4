"""Edits of YAML: what was asked changes, nothing else does."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.adapters.yaml_edit import CannotEdit, Edit, documents, remove, set_scalars

SHARED = Path(__file__).parents[4] / ".." / "shared" / "data" / "openova-clusters"

SLOT = """\
# A slot — with a comment above it.

---
# kube-system is there already.
apiVersion: v1
kind: Namespace
metadata:
  name: "harbor"   # quoted
---
apiVersion: source.toolkit.fluxcd.io/v1beta2
kind: HelmRepository
spec:
  type: oci
  url: oci://ghcr.io/openova-io  # the vendor's
  secretRef:
    name: ghcr-pull
  # a comment at the end

# and one below
---
---
kind: HelmRelease
spec:
  text: |
    one
    two

  values: {a: 'b', list: [1, 2]}
  empty:
  steps:
    - name: first
      image: 'x:1'
    - name: second
"""

FLOW = "  values: {a: 'b', list: [1, 2]}"


def lines_that_differ(old: str, new: str) -> tuple[list[str], list[str]]:
    before, after = old.splitlines(), new.splitlines()
    return [x for x in before if x not in after], [x for x in after if x not in before]


def edited(path: tuple[str | int, ...], value: str, document: int = 3) -> tuple[list[str], list[str]]:
    return lines_that_differ(SLOT, set_scalars(SLOT, [Edit(document, path, value)]))


def test_documents_are_counted_with_the_empty_ones() -> None:
    assert [document.get("kind") for document in documents(SLOT)] == [
        "Namespace",
        "HelmRepository",
        None,
        "HelmRelease",
    ]


@pytest.mark.parametrize(
    ("document", "path", "value", "gone", "new"),
    [
        (
            1, ("spec", "url"), "oci://harbor.x/openova-io",
            ["  url: oci://ghcr.io/openova-io  # the vendor's"], ["  url: oci://harbor.x/openova-io  # the vendor's"],
        ),
        (0, ("metadata", "name"), "other", ['  name: "harbor"   # quoted'], ['  name: "other"   # quoted']),
        (3, ("spec", "values", "a"), "it's", [FLOW], [FLOW.replace("'b'", "'it''s'")]),
        (3, ("spec", "steps", 0, "image"), "y:2", ["      image: 'x:1'"], ["      image: 'y:2'"]),
        (3, ("spec", "empty"), "no", ["  empty:"], ['  empty: "no"']),
        (3, ("spec", "text"), "one", ["  text: |", "    one", "    two"], ["  text: one"]),
        (3, ("spec", "empty", "a", "b"), "c", [], ["    a:", "      b: c"]),
        (3, ("spec", "values", "n", "m"), "c", [FLOW], [FLOW.replace("2]", '2], "n": {m: c}')]),
        (3, ("spec", "steps", 0, "tag"), "1.10", [], ['      tag: "1.10"']),
        (1, ("spec", "insecure"), "true", [], ['  insecure: "true"']),
        (1, ("labels", "of"), "x", [], ["labels:", "  of: x"]),
    ],
)  # fmt: skip
def test_one_scalar_is_set_where_it_stands(
    document: int, path: tuple[str | int, ...], value: str, gone: list[str], new: list[str]
) -> None:
    assert edited(path, value, document) == (gone, new)


def test_a_new_key_comes_before_the_comments_that_follow_its_mapping() -> None:
    text = set_scalars(SLOT, [Edit(1, ("spec", "provider"), "generic")])
    assert "    name: ghcr-pull\n  provider: generic\n  # a comment at the end\n\n# and one below\n" in text


def test_an_empty_last_value_does_not_draw_a_new_key_below_the_comments() -> None:
    text = "a:\n  b:\n\n# of c\nc: 1\n"
    assert set_scalars(text, [Edit(0, ("a", "d"), "e")]) == "a:\n  b:\n  d: e\n\n# of c\nc: 1\n"
    assert remove(text, 0, ("a", "b")) == "a:\n  {}\n\n# of c\nc: 1\n"


def test_several_edits_see_each_other() -> None:
    path = ("spec", "certSecretRef", "name")
    text = set_scalars(SLOT, [Edit(1, path, "x"), Edit(1, path, "ca")])
    assert documents(text)[1]["spec"]["certSecretRef"] == {"name": "ca"}


def test_a_value_that_is_there_already_changes_no_byte() -> None:
    edits = [Edit(0, ("metadata", "name"), "harbor"), Edit(1, ("spec", "type"), "oci")]
    assert set_scalars(SLOT, edits) == SLOT


def test_a_number_becomes_a_string_when_a_string_is_asked_for() -> None:
    assert set_scalars("version: 1.10\n", [Edit(0, ("version",), "1.10")]) == 'version: "1.10"\n'


def test_line_ends_of_the_file_are_kept() -> None:
    text = SLOT.replace("\n", "\r\n")
    changed = set_scalars(text, [Edit(1, ("spec", "a", "b"), "c")])
    assert changed.replace("\r\n", "").count("\n") == 0
    assert documents(changed)[1]["spec"]["a"] == {"b": "c"}


def test_a_file_without_a_last_line_end_gets_none() -> None:
    assert set_scalars("a:\n  b: c", [Edit(0, ("a", "d"), "e")]) == "a:\n  b: c\n  d: e"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a: &x {b: c}\nd: *x\n", ("a", "b")),
        ("a: &x {b: c}\nd: *x\n", ("d", "b")),
        ("a: &x b\nd: *x\n", ("d",)),
        ("a: [1]\n", ("a", 3)),
        ("a: b\n", ("a", "b")),
        ("a: {b: c}\n", ("a",)),
        ("a: !secret b\n", ("a",)),
        ("base: &b {x: {y: 1}}\nd:\n  <<: *b\n", ("d", "x", "z")),
        ("{{ template }}\n- a", ("a",)),
        ("a: b\na: c\n", ("a",)),
        ("a:\n- null\n", ("a", 0, "b")),
    ],
)
def test_what_cannot_be_done_without_touching_more_is_refused(text: str, path: tuple[str | int, ...]) -> None:
    with pytest.raises(CannotEdit):
        set_scalars(text, [Edit(0, path, "new")])


@pytest.mark.parametrize("end", ["", "...\n"])
@pytest.mark.parametrize("head", ["", "# of no document\n\n", "\ufeff", "%YAML 1.1\n", "---\n"])
def test_documents_are_told_apart_as_yaml_does(head: str, end: str) -> None:
    """A `---` inside a literal is text; comments above the first document are none; an empty document counts."""
    text = f"{head}---\ntext: |\n  ---\n  a: 1\nb: old\n---\n# nothing\n--- # the third\nb: old\n{end}"
    last = len(documents(text)) - 1
    assert last == (3 if head == "---\n" else 2)
    changed = set_scalars(text, [Edit(last, ("b",), "new")])
    assert changed == text[: text.rindex("old")] + f"new\n{end}"
    assert remove(text, last - 2, ("b",)) == text.replace("b: old\n", "", 1)


@pytest.mark.parametrize("break_", ["\x85", "\u2028", "\u00e4", "\U0001f600"])
def test_characters_that_parsers_count_otherwise_move_no_splice(break_: str) -> None:
    text = f'a: "x{break_}y{break_}"\nb: old # {"z" * 3}\n'
    assert set_scalars(text, [Edit(0, ("b",), "new")]) == text.replace("old", "new")


def test_a_file_of_a_thousand_objects_is_edited_in_seconds() -> None:
    one = "---\nkind: HelmRepository\nmetadata:\n  name: r{n}\nspec:\n  url: oci://old/x  # {n}\n"
    text = "".join(one.format(n=n) for n in range(1000))
    begin = time.process_time()
    changed = set_scalars(text, [Edit(n, ("spec", "url"), "oci://new/x") for n in range(1000)])
    # Half a second on an idle machine; it was twenty minutes when each edit parsed the whole file.
    assert time.process_time() - begin < 10
    assert changed == text.replace("oci://old", "oci://new")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public manifests are not beside this checkout")
def test_each_scalar_of_the_public_manifests_changes_there_and_back_to_the_same_bytes() -> None:
    tried = 0
    for path in sorted(SHARED.rglob("*.yaml")):
        text = path.read_bytes().decode()
        for number, document in enumerate(documents(text)):
            strings = [p for p in places(document) if isinstance(value := at(document, p), str) and value.isprintable()]
            for place in strings[::7]:
                old, new = at(document, place), "x" + at(document, place)
                try:
                    changed = set_scalars(text, [Edit(number, place, new)])
                except CannotEdit:
                    continue  # shared through an anchor, or tagged
                back = set_scalars(changed, [Edit(number, place, old)])
                assert documents(back) == documents(text)
                assert len([a for a in zip(text.splitlines(), changed.splitlines(), strict=False) if a[0] != a[1]]) >= 1
                kept = [line for line in text.splitlines() if line.lstrip().startswith("#")]
                assert [line for line in back.splitlines() if line.lstrip().startswith("#")] == kept
                tried += back == text
    assert tried > 150, "most come back to the very bytes; a long plain text comes back in quotes"


def test_a_document_that_is_not_there_is_refused() -> None:
    with pytest.raises(CannotEdit):
        set_scalars(SLOT, [Edit(9, ("a",), "b")])
    with pytest.raises(CannotEdit):
        documents("- a\n")


@pytest.mark.parametrize(
    ("document", "path", "gone", "new"),
    [
        (1, ("spec", "secretRef"), ["  secretRef:", "    name: ghcr-pull"], []),
        (1, ("spec", "secretRef", "name"), ["    name: ghcr-pull"], ["    {}"]),
        (3, ("spec", "values", "a"), [FLOW], ["  values: {list: [1, 2]}"]),
        (3, ("spec", "steps", 0), ["    - name: first", "      image: 'x:1'"], []),
        (3, ("spec", "steps", 0, "name"), ["    - name: first", "      image: 'x:1'"], ["    - image: 'x:1'"]),
        (3, ("spec", "text"), ["  text: |", "    one", "    two"], []),
        (3, ("spec", "nothing"), [], []),
        (3, ("spec", "steps", 7), [], []),
    ],
)
def test_a_key_goes_with_its_lines(document: int, path: tuple[str | int, ...], gone: list[str], new: list[str]) -> None:
    assert lines_that_differ(SLOT, remove(SLOT, document, path)) == (gone, new)


# --- laws ---

KEYS = st.sampled_from(["a", "b", "spec", "url", "a.b/c", "on", "x y"])
WORDS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12),
    st.sampled_from(
        ["", "yes", "1.10", "null", "~", "0x1", "a: b", "a #b", "- x", "*x", "&x", "oci://x/y", "it's", '"', "\n", "\t"]
    ),
)
SCALARS = st.one_of(WORDS, st.integers(), st.booleans(), st.none())


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(SCALARS, st.dictionaries(KEYS, inner, max_size=3), st.lists(inner, max_size=3))


TREES = nested(nested(SCALARS))
MAPPINGS = st.dictionaries(KEYS, TREES, min_size=1, max_size=4)
STYLES = st.sampled_from([False, None, True])


class Unaliased(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@st.composite
def streams(draw: st.DrawFn) -> str:
    """A few documents, in block, flow or mixed layout, with comments between them."""
    parts = []
    for number in range(draw(st.integers(1, 3))):
        dumped = yaml.dump(
            draw(MAPPINGS),
            Dumper=Unaliased,
            default_flow_style=draw(STYLES),
            allow_unicode=True,
            indent=draw(st.integers(2, 4)),
        )
        parts.append(f"# comment {number}\n{dumped}# after {number}\n")
    return "---\n".join(parts)


def places(tree: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path in a tree."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [p for key, value in children for p in ((*path, key), *places(value, (*path, key)))]


def at(tree: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


@settings(max_examples=150, deadline=None)
@given(streams(), st.data(), WORDS)
def test_any_scalar_of_any_layout_can_be_set(text: str, data: st.DataObject, value: str) -> None:
    parsed = documents(text)
    number = data.draw(st.integers(0, len(parsed) - 1))
    leaves = [p for p in places(parsed[number]) if not isinstance(at(parsed[number], p), dict | list)]
    if not leaves:
        return
    path = data.draw(st.sampled_from(leaves))
    expected = copy.deepcopy(parsed)
    at(expected[number], path[:-1])[path[-1]] = value
    changed = set_scalars(text, [Edit(number, path, value)])
    assert documents(changed) == expected
    # YAML 1.1, which Kubernetes reads, takes it for the same string.
    assert at(list(yaml.safe_load_all(changed))[number], path) == value
    assert [line for line in changed.splitlines() if line.startswith("# ")] == comments(text)
    assert set_scalars(changed, [Edit(number, path, value)]) == changed


@settings(max_examples=100, deadline=None)
@given(streams(), st.data(), WORDS)
def test_a_key_can_be_added_to_any_mapping(text: str, data: st.DataObject, value: str) -> None:
    parsed = documents(text)
    number = data.draw(st.integers(0, len(parsed) - 1))
    mappings = [p for p in places(parsed[number]) if isinstance(at(parsed[number], p), dict)]
    path = (*data.draw(st.sampled_from([(), *mappings])), "fresh", "key")
    expected = copy.deepcopy(parsed)
    at(expected[number], path[:-2])["fresh"] = {"key": value}
    changed = set_scalars(text, [Edit(number, path, value)])
    assert documents(changed) == expected
    assert comments(changed) == comments(text)


@settings(max_examples=100, deadline=None)
@given(streams(), st.data())
def test_what_is_removed_is_gone_and_nothing_else(text: str, data: st.DataObject) -> None:
    parsed = documents(text)
    number = data.draw(st.integers(0, len(parsed) - 1))
    path = data.draw(st.sampled_from(places(parsed[number])))
    expected = copy.deepcopy(parsed)
    del at(expected[number], path[:-1])[path[-1]]
    try:
        changed = remove(text, number, path)
    except CannotEdit:
        return  # A layout that it does not know, and says so.
    assert documents(changed) == expected
    assert comments(changed) == comments(text)


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("# ")]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public manifests are not beside this checkout")
def test_the_public_manifests_change_in_exactly_the_lines_that_were_asked_for() -> None:
    repositories = 0
    for path in sorted(SHARED.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        for number, document in enumerate(documents(text)):
            if document.get("kind") != "HelmRepository":
                continue
            repositories += 1
            edits = [
                Edit(number, ("spec", "url"), "oci://harbor.sovereign.test/openova-io"),
                Edit(number, ("spec", "secretRef", "name"), "cutover-harbor-pull"),
            ]
            changed = set_scalars(text, edits)
            old, new = text.splitlines(), changed.splitlines()
            assert len(old) == len(new)
            assert sum(a != b for a, b in zip(old, new, strict=True)) == 2
            back = [Edit(number, ("spec", "url"), "oci://ghcr.io/openova-io")]
            assert set_scalars(changed, [*back, Edit(number, ("spec", "secretRef", "name"), "ghcr-pull")]) == text
    assert repositories == 35
