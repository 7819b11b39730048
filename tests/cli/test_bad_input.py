"""What people do by mistake, through the command line: one clear message, a remedy, an exit code, nothing lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PRECEPTOR = str(Path(sys.executable).parent / "preceptor")


def run(*words: str, cwd: Path, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*prefix, PRECEPTOR, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=200, input=""
    )


def assert_clear(result: subprocess.CompletedProcess, code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1
    for word in words:
        assert word in result.stderr


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with a finished small run."""
    out = tmp_path_factory.mktemp("done") / "run"
    result = run("run", "tiny", "--out", str(out), cwd=out.parent)
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tinny"], ["no recipe 'tinny'", "tiny"]),
        (["missing.toml"], ["missing.toml"]),
        (["tiny", "pretraining.learning_rat=1"], ["pretraining.learning_rat", "did you mean"]),
        (["tiny", "pretraining.optimizer.learning_rat=1"], ["pretraining.optimizer.learning_rat", "learning_rate"]),
        (["tiny", "model.hidden_size=big"], ["model.hidden_size", "big"]),
        (["tiny", "model.num_key_value_heads=3"], ["num_key_value_heads", "divide"]),
        (["tiny", "pretraining.batch_tokens=100"], ["batch_tokens", "multiple"]),
        (["tiny", "pretraining.duration=soon"], ["duration", "soon"]),
        (["tiny", "tokenizer.vocab_size=10"], ["vocab_size", "259"]),
        (["tiny", "nonsense"], ["nonsense"]),
    ],
)
def test_a_recipe_with_a_mistake(tmp_path, words, expected):
    result = run("run", *words, "--out", "out", cwd=tmp_path)
    assert_clear(result, 2, *expected)
    assert not (tmp_path / "out" / "artifacts").exists()


def test_a_recipe_that_is_not_toml(tmp_path):
    (tmp_path / "bad.toml").write_text('name = "x"\nseed = = 3\n')
    assert_clear(run("run", "bad.toml", "--out", "out", cwd=tmp_path), 2, "bad.toml:2")


def source(path: str) -> str:
    return f'data.sources=[{{path="{path}", licence="MIT"}}]'


def fill(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (None, b"", ["docs", "holds no document", ".jsonl"]),
        ("image.png", b"\x89PNG\0\0", ["docs", "holds no document"]),
        ("a.txt", b"\0\0\0\0", ["docs", "holds no document"]),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', ["a.jsonl:2", "on_bad_input"]),
        ("a.txt", b"good\nbad \xff\n", ["a.txt:2", "UTF-8", "on_bad_input"]),
        ("a.jsonl", b'{"text": "' + b"a" * 100_000_000 + b'"}\n', ["a.jsonl:1", "max_record_bytes"]),
        ("a.txt", b"too short", ["too-short 1"]),
    ],
    ids=["empty", "binaries", "zeros", "broken-json", "invalid-utf8", "long-line", "too-short"],
)
def test_documents_that_cannot_be_used(tmp_path, name, content, expected):
    (tmp_path / "docs").mkdir()
    if name:
        fill(tmp_path / "docs", name, content)
    result = run("data", "tiny", source("docs"), "--out", "out", cwd=tmp_path)
    if name == "a.jsonl" and len(content) > 1000:
        expected = ["a.jsonl:1", "longer than"]
    assert_clear(result, 1, *expected)
    assert not list((tmp_path / "out" / "artifacts").glob("*/*"))


def test_a_vocabulary_larger_than_the_text_gives(tmp_path):
    (tmp_path / "docs").mkdir()
    for number in range(6):
        fill(
            tmp_path / "docs",
            f"{number}.txt",
            f"Text {number}: ".encode() + b"small words in a small file. " * (9 + number),
        )
    result = run("tokenizer", "tiny", source("docs"), "data.overlap.near_jaccard=0",
                 "data.filters.max_top_line_fraction=1.0", "--out", "out", cwd=tmp_path)  # fmt: skip
    assert_clear(result, 2, "tokenizer.vocab_size", "at most")


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("I am a file")
    assert_clear(run("run", "tiny", "--out", "file/out", cwd=tmp_path), 1, "file", "To fix it")
    assert (tmp_path / "file").read_text() == "I am a file"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_read_only_output_folder_and_a_full_disk(tmp_path, done):
    (tmp_path / "disk").mkdir()
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this machine grants no user namespaces")
    mount = f"mount -t tmpfs -o size={{}} tmpfs {tmp_path}/disk && "
    command = f"{PRECEPTOR} run tiny --out {tmp_path}/disk/out"
    shell = ("unshare", "-rm", "sh", "-c")
    read_only = subprocess.run(
        [*shell, mount.format("1m") + f"mount -o remount,ro {tmp_path}/disk && {command}"],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert_clear(read_only, 1, "disk/out", "To fix it")
    full = subprocess.run(
        [*shell, mount.format("900k") + f"{command}; code=$?; ls -R {tmp_path}/disk/out; exit $code"],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert_clear(full, 1, "disk/out", "space")
    assert ".draft" not in full.stdout


def test_two_runs_in_one_folder(tmp_path):
    first = subprocess.Popen(
        [PRECEPTOR, "pretrain", "tiny", "pretraining.duration=2000 steps", "--out", "out"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out" / "run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        result = run("data", "tiny", "--out", "out", cwd=tmp_path)
        assert_clear(result, 1, str(first.pid), "To fix it")
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert run("data", "tiny", "--out", "out", cwd=tmp_path).returncode == 0


def test_a_second_run_uses_everything_and_changes_nothing(done):
    before = snapshot(done / "artifacts")
    result = run("run", "tiny", "--out", str(done), cwd=done.parent)
    assert result.returncode == 0
    assert result.stderr.count(": exists") == 6 and ": made" not in result.stderr
    assert snapshot(done / "artifacts") == before


def test_a_change_makes_its_stage_again_and_what_follows_but_nothing_before(done, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(done, out)
    result = run("run", "tiny", "finetuning.duration=4 steps", "--out", str(out), cwd=tmp_path)
    made = {line.split(":")[0] for line in result.stderr.splitlines() if ": made" in line}
    assert made == {"finetune", "evaluate"}, result.stderr


def test_a_flipped_bit_is_found_and_the_stage_made_again(done, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(done, out)
    (folder,) = (out / "artifacts" / "adapter").iterdir()
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    result = run("finetune", "tiny", "--out", str(out), cwd=tmp_path)
    assert result.returncode == 0 and "adapter_model.safetensors" in result.stderr
    assert "finetune: made" in result.stderr and "pretrain: exists" in result.stderr


def test_a_folder_without_a_model(tmp_path):
    for words in (["chat"], ["generate", "x"]):
        assert_clear(run(*words, "--out", "nothing", cwd=tmp_path), 1, "nothing", "preceptor run")


def test_examples_that_are_missing_or_empty(tmp_path, done):
    out = tmp_path / "run"
    shutil.copytree(done, out)
    result = run("finetune", "tiny", "finetuning.examples=no.jsonl", "--out", str(out), cwd=tmp_path)
    assert_clear(result, 1, "no.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"question": "q", "answer": "a"}\n{"question"\n')
    result = run("finetune", "tiny", "finetuning.examples=bad.jsonl", "--out", str(out), cwd=tmp_path)
    assert_clear(result, 1, "bad.jsonl:2")


def test_without_examples_there_is_no_fine_tuning_and_the_report_says_so(tmp_path, done):
    out = tmp_path / "run"
    shutil.copytree(done, out)
    result = run("run", "tiny", "finetuning.examples=", "--out", str(out), cwd=tmp_path)
    assert result.returncode == 0 and "no fine-tuned model" in result.stdout
    assert "nothing was fine-tuned" in (out / "report.html").read_text()


def test_the_report_has_its_seven_keys_and_fetches_nothing(done):
    import json

    report = json.loads((done / "report.json").read_text())
    assert set(report) == {"data", "tokenizer", "pretraining", "model", "finetuning", "evaluation", "footprint"}
    data = report["data"]
    assert data["documents_in"] == data["documents_kept"] + data["documents_dropped"]
    assert data["documents_dropped"] == sum(data["drops_by_rule"].values())
    assert report["footprint"]["total"]["joules"] > 0 and report["footprint"]["total"]["how"]["joules"]
    page = (done / "report.html").read_text()
    assert "<svg" in page and "<script" not in page
    for outside in ('src="http', 'href="http', "url(http", "@import"):
        assert outside not in page.replace('xmlns:xlink="http', "")


def test_help_is_quick_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys, preceptor.cli; "
        "print([m for m in ('torch', 'pyarrow', 'codecarbon', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert "run" in run("--help", cwd=tmp_path).stdout


def test_questions_can_be_piped_in(done):
    result = subprocess.run(
        [PRECEPTOR, "chat", "--temperature", "0", "--out", str(done)],
        input="What does `textwrap.dedent` do?\n/help\n/save chat.jsonl\n/quit\n",
        cwd=done.parent, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "/save FILE" in result.stdout and (done.parent / "chat.jsonl").exists()
    assert "questions and answers are in" in result.stdout


def test_output_to_a_reader_that_leaves_is_no_error(done):
    command = f"{PRECEPTOR} recipes settings | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ})
    assert "Traceback" not in result.stderr
