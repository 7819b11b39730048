"""Whole files or none, and the primitives under them."""

import errno
import os
import stat
from pathlib import Path

import pytest

from preceptor.core import files
from preceptor.core.drafts import PREFIX, remove_folder, sweep, write_file
from preceptor.core.errors import OutputError
from preceptor.core.files import exchange, make_folder


def test_a_file_is_written_whole_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "run.json"
    write_file(path, "é")
    assert path.read_bytes() == "é".encode()
    write_file(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [each.name for each in path.parent.iterdir()] == ["run.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "run.json"
    write_file(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OutputError, match=r"run\.json: No space left"):
            write_file(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_in_the_way_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OutputError, match="directory"):
        write_file(tmp_path / "run.json", "x")
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(OutputError, match="runs: File exists"):
        write_file(tmp_path / "runs" / "run.json", "x")
    with pytest.raises(OutputError, match="File exists"):
        make_folder(tmp_path / "runs")
    assert (tmp_path / "runs").read_text() == "mine"


def test_made_folders_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    make_folder(tmp_path / "a" / "b")
    assert sorted(synced) == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_sweep_takes_dead_files_too(tmp_path: Path) -> None:
    dead = tmp_path / f"{PREFIX}run.json-1-abcd"
    dead.write_text("half")
    keep = tmp_path / "run.json"
    keep.write_text("whole")
    assert sweep(tmp_path) == [dead]
    assert list(tmp_path.iterdir()) == [keep]
    assert sweep(tmp_path / "nowhere") == []


def test_exchange_swaps_folders_in_one_step(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "name").read_text() == "b"
    assert (tmp_path / "b" / "name").read_text() == "a"
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "nowhere")


def test_exchange_says_where_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.sys, "platform", "darwin")
    assert not exchange(tmp_path / "a", tmp_path / "b")


def test_a_folder_is_removed_whole_and_what_is_not_there_is_gone(tmp_path: Path) -> None:
    (tmp_path / "old" / "deep").mkdir(parents=True)
    (tmp_path / "old" / "deep" / "x").write_text("x")
    assert remove_folder(tmp_path / "old")
    assert remove_folder(tmp_path / "old")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_taken_away_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()

    def fail(*arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "rename", fail)
    assert not remove_folder(tmp_path / "old")
    assert (tmp_path / "old").is_dir()
