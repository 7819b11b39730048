"""Artifacts: what is written is what is loaded, and everything else is refused by name."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from preceptor.core import artifact as artifact_module
from preceptor.core import drafts
from preceptor.core.artifact import MANIFEST, Artifact, Store, load, write_folder
from preceptor.core.errors import ArtifactError, OutputError


def make(target: Path, text: str = "hello", kind: str = "corpus") -> Artifact:
    with write_folder(target, kind, "key", {"corpus": "abc"}) as draft:
        (draft.path / "text.txt").write_text(text, encoding="utf-8")
        (draft.path / "deep" / "er").mkdir(parents=True)
        (draft.path / "deep" / "er" / "data.bin").write_bytes(bytes(range(256)))
        draft.facts["num_tokens"] = np.int64(3)
        draft.facts["shape"] = (1, 2)
        draft.notes["seconds"] = 1.5
    return draft.artifact


def no_drafts(folder: Path) -> bool:
    return not list(folder.rglob(f"{drafts.PREFIX}*"))


def test_what_is_written_is_what_is_loaded(tmp_path: Path) -> None:
    written = make(tmp_path / "a")
    loaded = load(tmp_path / "a", "corpus")
    assert loaded == written
    assert loaded.facts == {"num_tokens": 3, "shape": [1, 2]}
    assert loaded.notes == {"seconds": 1.5}
    assert loaded.parents == {"corpus": "abc"}
    assert list(loaded.files) == ["deep/er/data.bin", "text.txt"]
    assert loaded.file("text.txt").read_text(encoding="utf-8") == "hello"
    assert loaded.files["deep/er/data.bin"].bytes == 256
    assert no_drafts(tmp_path)


def test_the_id_follows_the_content_and_not_the_notes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    assert first.id == second.id
    assert make(tmp_path / "c", "other").id != first.id
    assert make(tmp_path / "d", kind="tokens").id != first.id
    with write_folder(tmp_path / "e", "corpus", "key", {}) as draft:
        draft.notes["seconds"] = 99
    with write_folder(tmp_path / "f", "corpus", "key", {}) as other:
        other.notes["seconds"] = 1
    assert draft.artifact.id == other.artifact.id


def test_an_unknown_file_names_the_nearest(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    with pytest.raises(ArtifactError, match=r"no file 'test\.txt'; did you mean 'text\.txt'"):
        made.file("test.txt")
    with pytest.raises(ArtifactError, match=r"it has deep/er/data\.bin, text\.txt"):
        made.file("zzzzzzzz")


def test_the_artifact_of_a_draft_exists_only_afterwards(tmp_path: Path) -> None:
    with write_folder(tmp_path / "a", "corpus", "key", {}) as draft:
        with pytest.raises(RuntimeError, match="only after"):
            _ = draft.artifact
        assert not (tmp_path / "a").exists()
        assert str(os.getpid()) in draft.path.name
        assert draft.path.parent == tmp_path
    assert draft.artifact.path == tmp_path / "a"


@pytest.mark.parametrize("name", ["text.txt", "deep/er/data.bin"])
def test_a_flipped_bit_is_found_in_every_file(tmp_path: Path, name: str) -> None:
    made = make(tmp_path / "a")
    path = made.file(name)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtifactError) as caught:
        load(tmp_path / "a")
    assert str(path) in caught.value.message
    assert f"expected SHA-256 {made.files[name].sha256}, found " in caught.value.message
    assert str(tmp_path / "a") in caught.value.remedy
    assert load(tmp_path / "a", verify=False).id == made.id  # names and sizes are as they were


def test_no_flipped_bit_of_the_manifest_changes_what_is_loaded(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    path = tmp_path / "a" / MANIFEST
    good = path.read_bytes()
    num_refused = 0
    for place in range(len(good)):
        raw = bytearray(good)
        raw[place] ^= 1 << place % 8
        path.write_bytes(raw)
        try:
            assert load(tmp_path / "a") == made
        except ArtifactError as error:
            assert str(path) in error.message
            num_refused += 1
    # Some bits carry nothing, such as the case of the e in 1e-05.
    assert num_refused > 0.99 * len(good)


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_named_with_its_sizes(tmp_path: Path, verify: bool) -> None:
    path = make(tmp_path / "a").file("deep/er/data.bin")
    os.truncate(path, 255)
    with pytest.raises(ArtifactError, match=r"data\.bin: corrupt: expected 256 bytes, found 255"):
        load(tmp_path / "a", verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_file_is_named(tmp_path: Path, verify: bool) -> None:
    make(tmp_path / "a").file("text.txt").unlink()
    with pytest.raises(ArtifactError, match=r"text\.txt: missing from this corpus"):
        load(tmp_path / "a", verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_an_added_file_is_named(tmp_path: Path, verify: bool) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "deep" / "more.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"deep/more\.txt: not part of this corpus"):
        load(tmp_path / "a", verify=verify)


def test_a_missing_manifest_makes_it_no_artifact(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="not a finished artifact"):
        load(tmp_path / "a")
    with pytest.raises(ArtifactError, match="no such artifact"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot read: Not a directory"):
        load(tmp_path / "file")


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\x00" * 100, b"{", b"[]", b"3", b"{}", b'{"format": 1}', b'{"format": 2}', b"\xff\xfe", b"[" * 100_000],
)
def test_a_garbage_manifest_is_refused(tmp_path: Path, garbage: bytes) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / MANIFEST).write_bytes(garbage)
    with pytest.raises(ArtifactError, match=r"manifest\.json: corrupt: "):
        load(tmp_path / "a")


def rewritten_manifest(folder: Path, **changes: object) -> None:
    """A manifest that is changed and whose own digest is right again, as someone who means harm would write it."""
    table = json.loads((folder / MANIFEST).read_text())
    table |= changes
    table.pop("sha256")
    (folder / MANIFEST).write_text(json.dumps({**table, "sha256": artifact_digest(table)}))


def artifact_digest(table: dict[str, object]) -> str:
    from preceptor.core.canonical import digest

    return digest(table)


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", "a/../../outside.txt", "", "./x", "a//b"])
def test_a_manifest_cannot_name_files_outside(tmp_path: Path, name: str) -> None:
    make(tmp_path / "a")
    rewritten_manifest(tmp_path / "a", files={name: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(ArtifactError, match="is not a name inside the artifact"):
        load(tmp_path / "a")


def test_a_manifest_whose_id_is_of_something_else_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    rewritten_manifest(tmp_path / "a", key="another")
    with pytest.raises(ArtifactError, match="expected id"):
        load(tmp_path / "a")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(ArtifactError, match="expected an artifact of kind 'tokens', found 'corpus'"):
        load(tmp_path / "a", "tokens")


def test_links_and_special_files_are_refused_on_load(tmp_path: Path) -> None:
    path = make(tmp_path / "a").file("text.txt")
    shutil.move(path, tmp_path / "elsewhere.txt")
    path.symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(ArtifactError, match=r"text\.txt: a link; an artifact holds its own files only"):
        load(tmp_path / "a")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match=r"text\.txt: a special file"):
        load(tmp_path / "a")


def test_a_linked_manifest_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    shutil.move(tmp_path / "a" / MANIFEST, tmp_path / "elsewhere")
    (tmp_path / "a" / MANIFEST).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"manifest\.json: a link"):
        load(tmp_path / "a")


def test_links_are_refused_on_writing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(ArtifactError, match="a link"), write_folder(tmp_path / "a", "corpus", "key", {}) as draft:
        (draft.path / "x").symlink_to(tmp_path / "secret")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), write_folder(tmp_path / "a", "corpus", "key", {}) as draft:
        (draft.path / "x").write_text("x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_facts_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"facts\.loss is nan"), write_folder(tmp_path / "a", "c", "k", {}) as draft:
        draft.facts["loss"] = float("nan")
    assert not list(tmp_path.iterdir())


def test_the_same_content_keeps_the_old_folder(tmp_path: Path) -> None:
    first = make(tmp_path / "a")
    inode = first.file("text.txt").stat().st_ino
    second = make(tmp_path / "a")
    assert second == first
    assert second.file("text.txt").stat().st_ino == inode
    assert no_drafts(tmp_path)


def test_other_content_replaces_the_old_folder(tmp_path: Path) -> None:
    make(tmp_path / "a")
    second = make(tmp_path / "a", "other")
    assert load(tmp_path / "a") == second
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_corrupt_artifact_is_replaced(tmp_path: Path) -> None:
    first = make(tmp_path / "a")
    os.truncate(first.file("text.txt"), 1)
    assert make(tmp_path / "a").id == first.id
    assert load(tmp_path / "a").id == first.id
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_an_atomic_exchange_only_corrupt_artifacts_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_module, "exchange", lambda first, second: False)
    first = make(tmp_path / "a")
    with pytest.raises(OutputError, match="cannot replace it in one step"):
        make(tmp_path / "a", "other")
    assert load(tmp_path / "a") == first
    os.truncate(first.file("text.txt"), 1)
    assert make(tmp_path / "a", "other") == load(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_artifact_of_another_kind_is_never_replaced(tmp_path: Path) -> None:
    first = make(tmp_path / "a")
    with pytest.raises(OutputError, match="it holds an artifact of another kind: corpus"):
        make(tmp_path / "a", kind="checkpoint")
    assert load(tmp_path / "a") == first
    assert no_drafts(tmp_path)


def test_a_folder_that_is_no_artifact_is_set_aside_and_not_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    made = make(tmp_path / "a")
    assert load(tmp_path / "a") == made
    (aside,) = tmp_path.glob("a.aside-*")
    assert (aside / "thesis.tex").read_text() == "years of work"
    assert str(aside) in capsys.readouterr().err


def test_a_file_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OutputError, match="Not a directory") as caught:
        make(tmp_path / "a")
    assert str(tmp_path / "a") in caught.value.message
    with pytest.raises(OutputError, match="a: File exists"):
        make(tmp_path / "a" / "b")
    assert (tmp_path / "a").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failing_disk_is_an_output_error_and_the_old_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    first = make(tmp_path / "a")

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OutputError, match=os.strerror(number)) as caught:
            make(tmp_path / "a", "other")
    assert str(tmp_path) in caught.value.message
    assert caught.value.remedy
    assert load(tmp_path / "a") == first
    assert no_drafts(tmp_path)


def test_a_full_disk_in_the_block_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="No space left on device"),
        write_folder(tmp_path / "a", "corpus", "key", {}) as draft,
    ):
        (draft.path / "x").write_text("x")
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
    assert not list(tmp_path.iterdir())


def test_every_file_and_folder_is_on_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def name(handle: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        return path.name if path.is_file() else f"{path.name}/" if drafts.PREFIX not in path.name else "draft/"

    def noted_fsync(handle: int) -> None:
        events.append(name(handle))
        fsync(handle)

    def noted_rename(source: Path, target: Path) -> None:
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    make(tmp_path / "a")
    assert sorted(events[:5]) == ["data.bin", "deep/", "draft/", "er/", "text.txt"]
    assert events.index("er/") > events.index("data.bin")
    assert events.index("deep/") > events.index("er/")
    assert events[5:] == [MANIFEST, "draft/", "rename", f"{tmp_path.name}/"]


# The store


def put(store: Store, text: str, key: str = "k") -> Artifact:
    with store.draft("corpus", key, {}) as draft:
        (draft.path / "text.txt").write_text(text)
    return draft.artifact


def test_a_store_names_artifacts_by_their_id(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    made = put(store, "x")
    assert made.path == tmp_path / "artifacts" / "corpus" / made.id[:16]
    assert store.load("corpus", made.id) == made
    assert store.load("corpus", made.id[:16]) == made
    with pytest.raises(ArtifactError, match="no such artifact"):
        store.load("corpus", "0" * 64)
    with pytest.raises(ArtifactError, match="expected the id"):
        store.load("corpus", made.id[:16] + "0" * 48)


def test_find_gives_the_newest_of_a_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("corpus", "k") is None
    first, second, other = put(store, "1"), put(store, "2"), put(store, "3", key="other")
    assert store.find("corpus", "k") == second
    assert store.find("corpus", "other") == other
    assert store.find("corpus", "none") is None
    assert store.find("tokens", "k") is None
    assert store.all("corpus") == [other, second, first]


def test_find_skips_and_reports_the_corrupt_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    first, second = put(store, "1"), put(store, "2")
    second.file("text.txt").write_text("3")
    assert store.find("corpus", "k") == first
    assert store.find("corpus", "k") == first
    assert store.find("corpus", "k", verify=False) == second
    (first.path / MANIFEST).write_text("garbage")
    assert store.find("corpus", "k") is None
    reported = capsys.readouterr().err
    assert reported.count("skipping a corrupt artifact") == 2
    assert str(second.file("text.txt")) in reported
    assert "delete" in reported


def test_find_reports_to_whom_it_is_told(tmp_path: Path) -> None:
    reported: list[Path] = []
    store = Store(tmp_path, on_corrupt=lambda path, error: reported.append(path))
    made = put(store, "1")
    os.truncate(made.file("text.txt"), 0)
    assert store.find("corpus", "k") is None
    assert reported == [made.path]
    assert put(store, "1") == store.find("corpus", "k")


def test_a_store_replaces_the_corrupt_and_keeps_the_sound(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = put(store, "1")
    assert put(store, "1").created == first.created
    (first.path / MANIFEST).write_text("garbage")
    again = put(store, "1")
    assert again.path == first.path
    assert store.find("corpus", "k") == again


def test_drafts_of_the_living_are_not_swept_and_of_the_dead_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "corpus").mkdir()
    dead = tmp_path / "corpus" / f"{drafts.PREFIX}corpus-1-abcd"
    dead.mkdir()
    (dead / "half.bin").write_bytes(b"x")
    (tmp_path / "corpus" / f"{drafts.PREFIX}link").symlink_to(tmp_path)
    with store.draft("corpus", "k", {}) as draft:
        assert not dead.exists()  # every writer sweeps first
        dead.mkdir()
        assert store.sweep() == [dead]
        assert draft.path.exists()
    assert store.find("corpus", "k") == draft.artifact
    assert store.sweep() == []
    assert Store(tmp_path / "nowhere").sweep() == []


def test_what_another_process_takes_away_meanwhile_is_no_longer_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_folder(tmp_path / "a", "corpus", "key", {}) as draft:
        (draft.path / "x").write_text("old")
    plain = artifact_module._verified

    def takes_away(folder: Path) -> Artifact | None:
        shutil.rmtree(folder)
        return plain(folder)

    monkeypatch.setattr(artifact_module, "_verified", takes_away)
    with write_folder(tmp_path / "a", "corpus", "key", {}) as draft:
        (draft.path / "x").write_text("new")
    assert load(tmp_path / "a").file("x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
