"""Every command that README and the docs show runs, on the smallest recipe and in an empty folder."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def commands() -> list[str]:
    """Each line of each bash block, without its comment."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            lines = (line.strip() for line in block.splitlines())
            found += [line for line in lines if line and not line.startswith("#")]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as a newcomer's after `make run`, but with the smallest recipe; and their own documents in docs/."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "docs").mkdir()
    words = [
        "river",
        "stone",
        "cloud",
        "maple",
        "lantern",
        "harbor",
        "meadow",
        "copper",
        "violet",
        "thunder",
        "window",
        "garden",
    ]
    for number in range(40):
        text = " ".join(words[(number * 5 + place * (number + 2)) % len(words)] + str(place % 7) for place in range(60))
        (folder / "docs" / f"{number}.txt").write_text(f"Document {number}. {text}")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (folder / "mine.toml").write_text(re.search(r"```toml\n# mine.toml\n(.*?)```", readme, re.DOTALL)[1])
    write_examples(folder)
    result = run("preceptor run tiny --out runs/default", folder)
    assert result.returncode == 0, result.stderr
    return folder


def write_examples(folder: Path) -> None:
    """The files of examples that docs/examples.md looks at."""
    rows = [(f"review number {number}", number % 2) for number in range(80)]
    (folder / "reviews.csv").write_text("review,stars\n" + "".join(f"{text},{label}\n" for text, label in rows))
    chats = [{"question": text, "answer": f"That is {label}."} for text, label in rows]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    for name, part in (("train", rows[:40]), ("test", rows[40:])):
        table = pyarrow.table({"text": [text for text, _ in part], "label": [label for _, label in part]})
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet")


def keep_corpus(command: str, folder: Path) -> None:
    """Put the corpus of the first run where a command makes a new folder: to read it again takes most of the time."""
    words = shlex.split(command, comments=True)
    out = folder / words[words.index("--out") + 1] if "--out" in words[:-1] else None
    if out is not None and not out.exists() and words[1] in ("run", "pretrain", "finetune"):
        shutil.copytree(folder / "runs" / "default" / "artifacts" / "corpus", out / "artifacts" / "corpus")


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    words = [str(Path(sys.executable).parent / "preceptor"), *shlex.split(command, comments=True)[1:]]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, input="", timeout=250)


def test_there_are_commands_to_try():
    assert sum(command.startswith("preceptor ") for command in commands()) >= 6


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("preceptor ")])
def test_preceptor_commands_run(command, folder):
    keep_corpus(command, folder)
    result = run(command.replace("preceptor run --out", "preceptor run tiny --out"), folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() or "chat" in command


@pytest.mark.parametrize("command", [c for c in commands() if not c.startswith("preceptor ")])
def test_other_commands_are_targets_that_exist(command, folder):
    words = shlex.split(command, comments=True)
    assert words[0] == "make", f"{command}: only make and preceptor commands are shown"
    result = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
