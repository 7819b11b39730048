"""kill -9 and a full disk, for real: what was verified before is verified afterwards."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preceptor.core.artifact import load, sweep, write_folder
from preceptor.core.drafts import PREFIX

CHILD = Path(__file__).with_name("crash_child.py")


def drafts_in(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{PREFIX}*"))


@pytest.mark.parametrize(
    ("scenario", "seen"),
    [
        ("replace", {"old", "new"}),
        ("keep", {"old"}),
        ("first", {"error", "new"}),
        ("repair", {"error", "old"}),
        ("repair-in-two-steps", {"error", "old"}),
        ("store", {"old", "new"}),
        ("file", {"old", "new"}),
        ("remove", {"oldold", "none"}),
    ],
)
def test_killed_before_every_act_on_files(tmp_path: Path, scenario: str, seen: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(CHILD), scenario, str(tmp_path)], capture_output=True, text=True, check=True
    )
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) > (5 if scenario == "remove" else 8)
    assert [kill for kill in kills if not kill["allowed"]] == []
    assert [kill for kill in kills if not kill["swept"]] == []
    assert [kill for kill in kills if not kill["again"]] == []
    assert {kill["seen"] for kill in kills} == seen
    assert any(kill["dead"] for kill in kills)  # some did die with a draft in hand
    assert kills[-1]["finished"]
    assert kills[-1]["dead"] == 0


def test_killed_just_before_the_rename(tmp_path: Path) -> None:
    with write_folder(tmp_path / "a", "corpus", "key", {}) as draft:
        (draft.path / "x").write_text("old")
    code = (
        "import os, signal, sys, pathlib\n"
        "from preceptor.core.artifact import write_folder\n"
        "os.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with write_folder(pathlib.Path(sys.argv[1]), 'corpus', 'key', {}) as draft:\n"
        "    (draft.path / 'x').write_text('new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = drafts_in(tmp_path)
    assert load(left).file("x").read_text() == "new"  # it was complete but for the rename
    assert load(tmp_path / "a") == draft.artifact
    assert sweep(tmp_path) == [left]
    assert load(tmp_path / "a") == draft.artifact


def test_killed_from_outside_at_random_moments(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from preceptor.core.artifact import write_folder\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    with write_folder(pathlib.Path(sys.argv[1]), 'corpus', 'key', {}) as draft:\n"
        "        for name in 'abc':\n"
        "            (draft.path / name).write_bytes(number.to_bytes(4, 'big') * 50_000)\n"
        "        draft.facts['number'] = number\n"
        "    print(number, flush=True)\n"
    )
    chance = random.Random(0)
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            acknowledged = int(child.stdout.readline())
            time.sleep(chance.uniform(0, 0.06))
            child.kill()
            acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
        survivor = load(tmp_path / "a")
        assert survivor.facts["number"] in (acknowledged, acknowledged + 1)
        assert survivor.file("c").read_bytes()[:4] == survivor.facts["number"].to_bytes(4, "big")
        sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_two_writers_of_one_target_do_not_harm_each_other(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from preceptor.core.artifact import write_folder\n"
        "for number in range(15):\n"
        "    with write_folder(pathlib.Path(sys.argv[1]), 'corpus', 'key', {}) as draft:\n"
        "        (draft.path / 'x').write_text(sys.argv[2] if number % 3 else 'both')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a"), name]) for name in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert load(tmp_path / "a").file("x").read_text() in ("one", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def in_a_small_file_system(mount: Path, option: str, code: str) -> subprocess.CompletedProcess[str]:
    """The code run where `mount` is a file system of 1 MB that nobody else sees; skips where that is not allowed."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    script = f'mount -t tmpfs -o size=1m tmpfs {mount} || exit 99; {sys.executable} -c "$CODE" {mount} {option}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env={**os.environ, "CODE": code},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"needs a user name space: {done.stderr.strip()}")
    return done


WRITE_IN_A_SMALL_FILE_SYSTEM = """
import os, pathlib, subprocess, sys
from preceptor.core.artifact import load, write_folder
from preceptor.core.errors import OutputError
root = pathlib.Path(sys.argv[1])
def write(size):
    with write_folder(root / "a", "corpus", "key", {}) as draft:
        (draft.path / "x").write_bytes(bytes(size))
    return draft.artifact
old = write(300_000)
if sys.argv[2] == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
try:
    write(900_000)
except OutputError as error:
    print(error)
assert load(root / "a") == old
assert os.listdir(root) == ["a"], os.listdir(root)
if sys.argv[2] == "full":
    assert write(400_000) == load(root / "a")
print("all there")
"""


@pytest.mark.parametrize(
    ("option", "said"), [("full", "No space left on device (0."), ("read-only", "Read-only file system")]
)
def test_a_real_full_disk_and_a_real_read_only_one(tmp_path: Path, option: str, said: str) -> None:
    done = in_a_small_file_system(tmp_path, option, WRITE_IN_A_SMALL_FILE_SYSTEM)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "To fix it: " in done.stdout
    assert done.stdout.endswith("all there\n")
