"""Strict decoding: what is accepted, and how every mistake is named."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, NewType

import pytest

from preceptor.core.config import canonical_json, decode, describe, digest, encode, json_schema
from preceptor.core.errors import ConfigError

Tokens = NewType("Tokens", int)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How the rate falls."""

    shape: Literal["linear", "cosine"] = "linear"
    """The curve."""
    warmup_steps: int = 10
    """Steps of rise."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Muon:
    """Orthogonal updates."""

    kind: Literal["muon"] = "muon"
    momentum: float = 0.95
    """How much of the past stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW:
    """Adaptive updates."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A folder."""

    path: str
    """Where it is."""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """A stage."""

    learning_rate: float = 0.01
    """The peak."""
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: Muon | AdamW = field(default_factory=Muon)
    """How gradients become updates."""
    max_norm: float | None = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetuning(Training):
    """A stage with an adapter."""

    rank: int = 8
    """The width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All of it."""

    seed: int = 0
    """Where chance comes from."""
    name: str = "default"
    out: Path = Path("runs")
    fast: bool = False
    budget: Tokens = Tokens(100)
    sources: tuple[Source, ...] = ()
    languages: list[str] = field(default_factory=list)
    weights: Mapping[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    stop: str | int = "never"
    pretraining: Training = field(default_factory=lambda: Training(learning_rate=0.5, optimizer=AdamW()))
    finetuning: Finetuning = field(default_factory=Finetuning)
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ValueError("this name is taken")
        if self.name == "odd":
            raise ConfigError("finetuning.rank must be odd", remedy="take 7")


def fail(table: Mapping[str, object], where: str = "") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        decode(Recipe, table, where=where)
    return caught.value


def test_an_empty_table_is_the_default() -> None:
    assert decode(Recipe, {}) == Recipe()


def test_values_of_every_type() -> None:
    recipe = decode(
        Recipe,
        {
            "seed": 3,
            "out": "elsewhere",
            "fast": True,
            "budget": 7,
            "sources": [{"path": "a"}, {"path": "b", "weight": 2}],
            "languages": ["en", "de"],
            "weights": {"a": 1, "b": 0.5},
            "extra": {"anything": [1, {"deep": None}]},
            "stop": 9,
            "names": ["x"],
        },
    )
    assert recipe.out == Path("elsewhere")
    assert recipe.sources == (Source(path="a"), Source(path="b", weight=2.0))
    assert isinstance(recipe.sources[1].weight, float)
    assert recipe.languages == ["en", "de"]
    assert recipe.weights == {"a": 1.0, "b": 0.5}
    assert recipe.extra == {"anything": [1, {"deep": None}]}
    assert (recipe.stop, recipe.budget, recipe.fast, recipe.names) == (9, 7, True, ("x",))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"seed": "3"}, "seed: expected an integer, found the string '3'"),
        ({"seed": 3.0}, "seed: expected an integer, found the number 3.0"),
        ({"seed": True}, "seed: expected an integer, found true"),
        ({"fast": 1}, "fast: expected true or false, found the number 1"),
        ({"name": ["x"]}, "name: expected a string, found a list"),
        ({"out": 3}, "out: expected a path, found the number 3"),
        ({"pretraining": {"learning_rate": "fast"}}, "pretraining.learning_rate: expected a number, found the string"),
        ({"pretraining": {"learning_rate": False}}, "pretraining.learning_rate: expected a number, found false"),
        ({"pretraining": {"learning_rate": float("nan")}}, "learning_rate: expected a finite number, found the number"),
        ({"pretraining": {"learning_rate": float("inf")}}, "learning_rate: expected a finite number, found the number"),
        ({"pretraining": {"learning_rate": 10**400}}, "learning_rate: expected a finite number, found a number that"),
        ({"pretraining": {"max_norm": "big"}}, "pretraining.max_norm: expected a number or none, found the string"),
        ({"pretraining": 3}, "pretraining: expected a table, found the number 3"),
        ({"sources": "docs"}, "sources: expected a list, found the string 'docs'"),
        ({"sources": [{"path": "a"}, {}]}, "sources[1].path: missing; expected a string"),
        ({"sources": [{"path": 3}]}, "sources[0].path: expected a string, found the number 3"),
        ({"sources": [{"path": "x", "wieght": 1}]}, "sources[0].wieght: unknown key; did you mean 'weight'?"),
        ({"languages": ["en", 3]}, "languages[1]: expected a string, found the number 3"),
        ({"weights": {"a": "x"}}, "weights.a: expected a number, found the string 'x'"),
        ({"weights": [1]}, "weights: expected a table, found a list"),
        ({"stop": [1]}, "stop: expected a string or an integer, found a list"),
        ({"seed": None}, "seed: expected an integer, found nothing"),
        ({"name": b"x"}, "name: expected a string, found a bytes"),
        ({"seed": "x" * 100}, "seed: expected an integer, found a string of 100 characters"),
    ],
)
def test_a_wrong_value_is_named_by_its_full_path(table: Mapping[str, object], message: str) -> None:
    assert fail(table).message.startswith(message) or message in fail(table).message


@pytest.mark.parametrize(
    ("table", "path", "nearest"),
    [
        ({"sede": 1}, "sede", "seed"),
        ({"pretraining": {"learning_rat": 1}}, "pretraining.learning_rat", "learning_rate"),
        ({"learning_rate": 1}, "learning_rate", "pretraining.learning_rate"),
        ({"finetuning": {"warmup_steps": 1}}, "finetuning.warmup_steps", "finetuning.schedule.warmup_steps"),
        ({"finetuning": {"warmup_step": 1}}, "finetuning.warmup_step", "finetuning.schedule.warmup_steps"),
        ({"pretraining": {"rank": 1}}, "pretraining.rank", "finetuning.rank"),
        ({"zzz": 1}, "zzz", ""),
    ],
)
def test_an_unknown_key_names_the_nearest(table: Mapping[str, object], path: str, nearest: str) -> None:
    error = fail(table)
    assert (error.path, error.nearest) == (path, nearest)
    assert error.message.startswith(f"{path}: unknown key; ")
    assert f"did you mean {nearest!r}?" in error.message if nearest else "expected one of seed, name" in error.message
    assert error.expected.startswith("one of ")


def test_where_prefixes_every_path() -> None:
    assert fail({"pretraining": {"learning_rat": 1}}, where="base").path == "base.pretraining.learning_rat"
    assert fail({"learning_rate": 1}, where="base").nearest == "base.pretraining.learning_rate"


def test_a_literal_suggests() -> None:
    error = fail({"pretraining": {"schedule": {"shape": "cosin"}}})
    assert error.message == (
        "pretraining.schedule.shape: expected 'linear' or 'cosine', found the string 'cosin'; did you mean 'cosine'?"
    )
    assert error.nearest == "cosine"


def test_a_number_for_a_string_says_to_quote_it() -> None:
    assert "put the value in quotes" in str(fail({"name": 2024}))


def test_checks_of_the_dataclass_keep_their_words_and_get_the_path() -> None:
    error = fail({"pretraining": {"schedule": {"warmup_steps": -1}}})
    assert error.message == "pretraining.schedule.warmup_steps must not be negative, got -1"
    assert error.path == "pretraining.schedule.warmup_steps"
    assert isinstance(error.__cause__, ValueError)


def test_checks_that_name_no_field_get_the_path_of_the_table() -> None:
    assert fail({"name": "forbidden"}).message == "this name is taken"
    assert fail({"name": "forbidden"}, where="recipe").message == "recipe: this name is taken"
    assert fail({"name": "odd"}).remedy == "take 7"


def test_tagged_unions() -> None:
    def optimizer(table: Mapping[str, object]) -> object:
        return decode(Recipe, {"finetuning": {"optimizer": table}}).finetuning.optimizer

    assert optimizer({"kind": "muon", "momentum": 0.5}) == Muon(momentum=0.5)
    assert optimizer({"kind": "adamw", "betas": [0, 1]}) == AdamW(betas=(0.0, 1.0))
    assert optimizer({"momentum": 0.5}) == Muon(momentum=0.5)  # the kind of the default
    assert decode(Recipe, {"pretraining": {"optimizer": {"betas": [0.5, 0.5]}}}).pretraining.optimizer == AdamW(
        betas=(0.5, 0.5)
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "adam"}, "finetuning.optimizer.kind: expected 'muon' or 'adamw', found the string 'adam'; did you"),
        ({"kind": 3}, "finetuning.optimizer.kind: expected 'muon' or 'adamw', found the number 3"),
        ({"kind": "adamw", "momentum": 1}, "finetuning.optimizer.momentum: unknown key; "),
        ({"kind": "adamw", "betas": [1]}, "finetuning.optimizer.betas: expected a list of 2 items, found 1"),
        ({"kind": "adamw", "betas": [1, "x"]}, "finetuning.optimizer.betas[1]: expected a number, found the string"),
        ("muon", "finetuning.optimizer: expected a table whose kind is 'muon' or 'adamw', found the string 'muon'"),
    ],
)
def test_mistakes_in_tagged_unions(table: object, message: str) -> None:
    assert fail({"finetuning": {"optimizer": table}}).message.startswith(message)


def test_a_union_without_a_default_needs_its_kind() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Needs:
        optimizer: Muon | AdamW

    with pytest.raises(ConfigError, match=r"optimizer\.kind: missing; expected 'muon' or 'adamw'"):
        decode(Needs, {"optimizer": {}})


def test_none_can_be_said_where_no_string_is_meant() -> None:
    assert decode(Recipe, {"pretraining": {"max_norm": "none"}}).pretraining.max_norm is None
    assert decode(Recipe, {"pretraining": {"max_norm": None}}).pretraining.max_norm is None

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Named:
        title: str | None = None

    assert decode(Named, {"title": "none"}).title == "none"


def test_a_nested_table_changes_the_default_it_stands_for() -> None:
    recipe = decode(Recipe, {"pretraining": {"max_norm": 2}})
    assert recipe.pretraining == Training(learning_rate=0.5, optimizer=AdamW(), max_norm=2.0)


def test_a_ready_dataclass_passes() -> None:
    training = Training(learning_rate=7.0)
    assert decode(Recipe, {"pretraining": training, "finetuning": {"optimizer": AdamW()}}).pretraining is training


def test_a_type_that_no_recipe_can_hold_is_a_mistake_of_the_programmer() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Odd:
        value: complex = 0j

    with pytest.raises(TypeError, match="value: a configuration cannot hold"):
        decode(Odd, {"value": 1})


def test_encode_is_undone_by_decode() -> None:
    recipe = Recipe(sources=(Source(path="a"),), pretraining=Training(max_norm=None, optimizer=Muon(momentum=0.1)))
    table = encode(recipe)
    assert decode(Recipe, table) == recipe
    assert decode(Recipe, json.loads(json.dumps(table))) == recipe


def test_encode_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(ValueError, match=r"Recipe\.extra\.x\[1\] is nan"):
        encode(Recipe(extra={"x": [1, float("nan")]}))
    with pytest.raises(TypeError, match=r"Recipe\.extra\.x is of type set"):
        encode(Recipe(extra={"x": {1}}))
    with pytest.raises(TypeError, match="only strings can be keys"):
        encode(Recipe(extra={"x": {1: 2}}))
    with pytest.raises(TypeError, match="not a dataclass"):
        encode(3)


def test_canonical_json_is_sorted_compact_and_knows_no_whole_floats() -> None:
    assert canonical_json({"b": [1.0, 0.5, True, None], "a": "é", "c": Path("x")}) == (
        '{"a":"\\u00e9","b":[1,0.5,true,null],"c":"x"}'
    )


def test_the_digest_is_the_same_in_every_process() -> None:
    expected = "8f0a269383f122b105a6d2dfcaea633a6ad8cd170209d081e36f0eeab3f1c850"
    value = {"b": 1e-5, "a": [0.1, 2.0, "é"], "nested": {"z": 1, "y": None}}
    code = f"from preceptor.core.config import digest; print(digest({value!r}))"
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == digest(value) == expected


def test_describe_lists_every_setting_with_its_help() -> None:
    fields = {each.path: each for each in describe(Recipe)}
    assert fields["seed"].help == "Where chance comes from."
    assert fields["seed"].type == "an integer"
    assert fields["pretraining.learning_rate"].default == 0.5  # of this use, not of the class
    assert fields["finetuning.learning_rate"].default == 0.01
    assert fields["finetuning.learning_rate"].help == "The peak."  # inherited
    assert fields["finetuning.rank"].help == "The width."
    assert fields["pretraining.optimizer.kind"].default == "adamw"
    assert fields["pretraining.optimizer.kind"].type == "'muon' or 'adamw'"
    assert fields["pretraining.optimizer.kind"].help == "How gradients become updates."
    assert fields["pretraining.optimizer.momentum"].when == "pretraining.optimizer.kind = 'muon'"
    assert fields["pretraining.max_norm"].type == "a number or none"
    assert fields["out"].default == "runs"
    assert len(fields) == len(describe(Recipe))


def test_describe_says_what_is_required() -> None:
    assert [(each.path, each.required) for each in describe(Source)] == [("path", True), ("weight", False)]


def test_variants_need_a_kind() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Either:
        part: Source | Schedule

    with pytest.raises(TypeError, match="needs a field kind"):
        describe(Either)


def test_json_schema() -> None:
    schema: Any = json_schema(Recipe)
    assert schema["title"] == "Recipe"
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert properties["seed"] == {"type": "integer", "description": "Where chance comes from.", "default": 0}
    assert properties["stop"]["anyOf"] == [{"type": "string"}, {"type": "integer"}]
    assert properties["sources"]["items"]["required"] == ["path"]
    assert properties["weights"]["additionalProperties"] == {"type": "number"}
    training = properties["pretraining"]["properties"]
    assert properties["pretraining"]["description"] == "A stage."
    assert training["learning_rate"]["default"] == 0.5
    assert training["max_norm"]["anyOf"] == [{"type": "number"}, {"type": "null"}]
    assert training["schedule"]["properties"]["shape"]["enum"] == ["linear", "cosine"]
    adamw = training["optimizer"]["anyOf"][1]
    assert adamw["properties"]["kind"]["enum"] == ["adamw"]
    assert adamw["properties"]["betas"]["prefixItems"] == [{"type": "number"}] * 2
    assert properties["extra"]["additionalProperties"] == {}
    json.dumps(schema)


def test_variants_may_be_told_apart_by_their_family() -> None:
    @dataclass(frozen=True)
    class Left:
        family: Literal["left"] = "left"
        kind: Literal["a", "b"] = "a"

    @dataclass(frozen=True)
    class Right:
        family: Literal["right"] = "right"

    cls = make_dataclass("Either", [("model", Left | Right, field(default_factory=Left))], frozen=True)
    assert decode(cls, {"model": {"family": "right"}}).model == Right()
    assert decode(cls, {"model": {"kind": "b"}}).model == Left(kind="b")
    with pytest.raises(ConfigError, match=r"model\.family: expected 'left' or 'right'"):
        decode(cls, {"model": {"family": "up"}})
    assert [each.path for each in describe(cls)] == ["model.family", "model.kind"]
