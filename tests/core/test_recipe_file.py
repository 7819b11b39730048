"""Reading recipes and overrides, and how their mistakes are located."""

from pathlib import Path

import pytest

from preceptor.core.config import apply_overrides, read_recipe
from preceptor.core.errors import ConfigError


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "small.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_reads_tables(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, "seed = 1\n[a.b]\nc = [1, 2]\n")) == {"seed": 1, "a": {"b": {"c": [1, 2]}}}


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, b"\xef\xbb\xbfseed = 1\n")) == {"seed": 1}


@pytest.mark.parametrize(
    ("text", "line", "shown"),
    [
        ("seed = 1\nname = default\n", 2, "name = default"),
        ("seed = 1\nseed = 2\n", 2, "overwrite"),
        ("[a\n", 1, "[a"),
        ("a = 1\nb = [1,\n", 3, "not TOML"),
        ('a = """x\n\n', 3, "not TOML"),
        ("a 1", 1, "a 1"),
    ],
)
def test_a_syntax_error_names_file_and_line(tmp_path: Path, text: str, line: int, shown: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert caught.value.message.startswith(f"{path}:{line}: not TOML: ")
    assert shown in caught.value.message
    assert caught.value.remedy


def test_text_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"seed = 1\nname = '\xff'\n")
    with pytest.raises(ConfigError, match=r"small\.toml:2: not UTF-8 text: byte 0xff"):
        read_recipe(path)


def test_a_missing_recipe_suggests_one_that_is_there(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    with pytest.raises(ConfigError) as caught:
        read_recipe(tmp_path / "smal.toml")
    assert "No such file" in caught.value.message
    assert caught.value.nearest == str(path)
    with pytest.raises(ConfigError, match="TOML file"):
        read_recipe(tmp_path / "nowhere" / "x.toml")
    with pytest.raises(ConfigError, match="directory"):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a.b=3", 3),
        ("a.b = 3", 3),
        ("a.b=1e-3", 1e-3),
        ("a.b=true", True),
        ("a.b=True", "True"),
        ('a.b="3"', "3"),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b={c = 1}", {"c": 1}),
        ("a.b=docs/x", "docs/x"),
        ("a.b=60 steps", "60 steps"),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
        ("a.b=#x", "#x"),
        ("a.b=2024-01-01", "2024-01-01"),
        ("a.b=1\nc=2", "1\nc=2"),
        ("a.b='é'", "é"),
    ],
)
def test_values(override: str, value: object) -> None:
    assert apply_overrides({}, [override]) == {"a": {"b": value}}


def test_later_overrides_win_and_the_table_given_stays() -> None:
    table = {"a": {"b": 1, "c": [1]}}
    assert apply_overrides(table, ["a.b=2", "a.b=3", "d=4"]) == {"a": {"b": 3, "c": [1]}, "d": 4}
    assert table == {"a": {"b": 1, "c": [1]}}


@pytest.mark.parametrize("override", ["a", "=1", ".a=1", "a.=1", "a..b=1", "a b=1", "", "a[0]=1"])
def test_a_bad_form_says_the_right_one(override: str) -> None:
    with pytest.raises(ConfigError, match="is not a setting") as caught:
        apply_overrides({}, [override])
    assert "key=value" in caught.value.remedy


def test_a_path_through_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a\.b\.c: a\.b is not a table but 1") as caught:
        apply_overrides({"a": {"b": 1}}, ["a.b.c=2"])
    assert caught.value.path == "a.b.c"
