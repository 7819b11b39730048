"""What holds for every configuration, every artifact and every permutation."""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.artifact import load, write_folder
from preceptor.core.config import apply_overrides, canonical_json, decode, digest, encode
from preceptor.core.seeds import KeyedPermutation, derive

unhurried = settings(deadline=None)  # a busy machine is no failure

numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
json_tables = st.dictionaries(st.text(), json_values, max_size=4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    kind: Literal["left"] = "left"
    amount: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Right:
    kind: Literal["right"] = "right"
    names: tuple[str, ...] = ()
    pair: tuple[int, bool] = (0, False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    side: Left | Right = field(default_factory=Left)
    sides: tuple[Left | Right, ...] = ()
    table: dict[str, int] = field(default_factory=dict)
    word: Literal["a", "b"] = "a"


lefts = st.builds(Left, amount=st.none() | numbers)
rights = st.builds(Right, names=st.lists(st.text()).map(tuple), pair=st.tuples(st.integers(), st.booleans()))
trees = st.builds(
    Tree,
    side=lefts | rights,
    sides=st.lists(lefts | rights, max_size=3).map(tuple),
    table=st.dictionaries(st.text(), st.integers(), max_size=3),
    word=st.sampled_from(["a", "b"]),
)


@unhurried
@given(trees)
def test_decode_undoes_encode(tree: Tree) -> None:
    table = encode(tree)
    assert decode(Tree, table) == tree
    again = decode(Tree, json.loads(json.dumps(table)))
    assert again == tree
    assert digest(again) == digest(tree)


@unhurried
@given(json_values)
def test_canonical_json_is_a_fixed_point(value: object) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text
    assert json.loads(text) == value
    assert text.isascii()


@unhurried
@given(json_tables)
def test_the_order_of_keys_does_not_matter(table: dict[str, object]) -> None:
    assert digest(dict(reversed(table.items()))) == digest(table)


@unhurried
@given(json_tables, st.text())
def test_overrides_never_change_the_table_given(table: dict[str, object], text: str) -> None:
    before = canonical_json(table)
    after = apply_overrides(table, [f"new-key-of-mine={text}"])
    assert canonical_json(table) == before
    assert {**table, "new-key-of-mine": after["new-key-of-mine"]} == after


names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=200), max_size=4),
    json_tables,
    json_tables,
    st.dictionaries(st.text(), st.text(), max_size=2),
    st.text(),
)
def test_load_undoes_save(
    files: dict[str, bytes], facts: dict[str, object], notes: dict[str, object], parents: dict[str, str], key: str
) -> None:
    with tempfile.TemporaryDirectory() as root:
        target = Path(root) / "a"
        held = {}
        with write_folder(target, "thing", key, parents) as draft:
            for name, content in files.items():
                path = draft.path / name
                if path.exists() or any(above.is_file() for above in path.parents):
                    continue  # the same name once as a file and once as a folder
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                held[name] = content
            draft.facts |= facts
            draft.notes |= notes
        loaded = load(target, "thing")
        assert loaded == draft.artifact
        assert (loaded.facts, loaded.notes, loaded.parents, loaded.key) == (facts, notes, parents, key)
        assert {name: loaded.file(name).read_bytes() for name in loaded.files} == held


@unhurried
@given(st.integers(1, 300), st.integers())
def test_a_permutation_is_a_bijection_with_its_inverse(size: int, key: int) -> None:
    permutation = KeyedPermutation(size, key)
    values = permutation.many(np.arange(size)).tolist()
    assert sorted(values) == list(range(size))
    assert [permutation.inverse(value) for value in values] == list(range(size))
    assert permutation(size // 2) == values[size // 2]


@unhurried
@given(st.integers(1, 1 << 62), st.integers(), st.data())
def test_a_large_permutation_is_undone_by_its_inverse(size: int, key: int, data: st.DataObject) -> None:
    permutation = KeyedPermutation(size, key)
    place = data.draw(st.integers(0, size - 1))
    value = permutation(place)
    assert 0 <= value < size
    assert permutation.inverse(value) == place
    assert permutation(permutation.inverse(place)) == place
    assert permutation.many(np.array([place])).tolist() == [value]


@unhurried
@given(st.integers(), st.lists(st.text() | st.integers()))
def test_derived_seeds_are_63_bits(seed: int, uses: list[str | int]) -> None:
    assert 0 <= derive(seed, *uses) < 1 << 63
    assert derive(seed, *uses) != derive(seed, *uses, 0)
