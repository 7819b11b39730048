"""Rows 22 to 28: files given by mistake or to do harm. Each is refused with its place, in time and in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from preceptor.core.artifact import write_folder
from preceptor.core.errors import ConfigError, DataError, EmptyDataError, PreceptorError
from preceptor.core.seeds import KeyedPermutation
from preceptor.data import augment, bias
from preceptor.data.config import DataConfig
from preceptor.data.corpus import Corpus, Workshop, build
from preceptor.data.examples import conversations, read_examples
from preceptor.data.personal import PersonalConfig, Redactor
from preceptor.data.rights import RightsConfig
from preceptor.data.source_config import SourceConfig

GOOD = b'{"question": "q", "answer": "a"}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"question": "\xff", "answer": "a"}', "byte 0xff at 14 of the line is not UTF-8"),
        (b'{"question": "\\ud800", "answer": "a"}', "half of a surrogate pair"),
        (b'{"question": "q\0", "answer": "a"}', "broken JSON"),
        (b'\xef\xbb\xbf{"question": "q", "answer": "a"}', "broken JSON"),
        (b'{"question": "q", "answer": NaN}', "NaN is not JSON"),
        (b'{"question": "q", "question": "p", "answer": "a"}', "stands twice"),
        (b'{"question": "q", "answer": "a", "deep": ' + b"[" * 100_000, "broken JSON"),
        (b'{"question": "q", "answer": ' + b"1" * 5000 + b"}", "broken JSON"),
    ],
    ids=["utf8", "surrogate", "nul", "bom", "nan", "twice", "deep", "digits"],
)
def test_row_22_an_example_that_is_no_text_is_refused_with_its_line(tmp_path, line, said):
    path = tmp_path / "examples.jsonl"
    path.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD)
    with pytest.raises(DataError, match=r"examples\.jsonl:3: ") as caught:
        read_examples(path)
    assert said in caught.value.message and caught.value.remedy


def test_row_22_a_byte_order_mark_at_the_front_and_an_escaped_nul_are_text(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b'\r\n{"question": "a\\u0000b", "answer": "a"}')
    assert [example.question for example in conversations(read_examples(path))] == ["q", "a\0b"]
    path.write_bytes(b"\xef\xbb\xbf \n[" + GOOD + b"]")
    assert [example.question for example in conversations(read_examples(path))] == ["q"]


READ_EXAMPLES = """
import resource, sys
from pathlib import Path
from preceptor.core.errors import DataError
from preceptor.data.examples import read_examples
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_examples(Path(sys.argv[1]))
except DataError as error:
    print(error.message)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_row_23_an_example_of_a_hundred_megabytes_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "examples.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'\n{"question": "')
        for _ in range(100):
            file.write(b"a" * 1_000_000)
        file.write(b'", "answer": "a"}\n')
    done = subprocess.run(
        [sys.executable, "-c", READ_EXAMPLES, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    said, grown_kib = done.stdout.splitlines()
    assert "examples.jsonl:2: longer than" in said and int(grown_kib) < 60_000


READ_ROWS = """
import resource, sys
from preceptor.data.sources import Reader, SourceConfig
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
def rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = 0
for record in Reader().read(SourceConfig(path=sys.argv[1])):
    count += 1
    if count == 20_000:
        early = rss()
print(count, rss() - early)
"""


def test_row_24_many_rows_take_no_more_memory_than_few(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        for start in range(0, 120_000, 1000):
            file.write(b"".join(b'{"text": "row %d"}\n' % number for number in range(start, start + 1000)))
    done = subprocess.run(
        [sys.executable, "-c", READ_ROWS, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    count, grown_kib = map(int, done.stdout.split())
    assert count == 120_000 and grown_kib < 10_000


def test_row_24_the_order_of_a_billion_rows_takes_no_memory():
    order = KeyedPermutation(1_000_000_000, 7)
    places = [order(place) for place in range(1000)]
    assert len(set(places)) == 1000 and max(places) < 1_000_000_000
    assert [order.inverse(place) for place in places] == list(range(1000))


def corpus_of(tmp_path: Path, **files: bytes) -> tuple[dict, list]:
    """The datasheet and the documents of the corpus of some files."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    config = DataConfig(sources=(SourceConfig(path=str(folder)),), rights=RightsConfig(unknown="keep"))
    with write_folder(tmp_path / "corpus", "corpus", "key", {}) as draft:
        datasheet = build(config, 0, draft, Workshop(tmp_path / "work", "key"))
    return datasheet, list(Corpus.load(tmp_path / "corpus").documents())


SENTENCE = "The committee met on Tuesday to discuss budget number {} for the coming year in room {}. "


def text(number: int) -> str:
    return "".join(SENTENCE.format(number * 10 + place, number + place) for place in range(6))


@pytest.mark.parametrize(
    "files",
    [{"a_txt": b""}, {"a_jsonl": b""}, {"a_jsonl": b"\n\n \n"}, {"a_csv": b"text\n"}, {"a_json": b"[]"}],
    ids=["text", "jsonl", "blank", "csv", "list"],
)
def test_row_25_an_empty_file_is_refused_clearly(tmp_path, files):
    with pytest.raises(EmptyDataError, match=r"docs: holds no document that can be read") as caught:
        corpus_of(tmp_path, **files)
    assert caught.value.remedy and not (tmp_path / "corpus").exists()


def test_row_25_one_row_is_refused_clearly_as_nothing_could_be_held_out(tmp_path):
    with pytest.raises(DataError, match="only one document") as caught:
        corpus_of(tmp_path, a_jsonl=json.dumps({"text": text(1)}).encode())
    assert caught.value.remedy and not (tmp_path / "corpus").exists()


def test_row_25_rows_that_are_all_unfit_are_refused_with_their_rules(tmp_path):
    with pytest.raises(DataError, match=r"too-short 3") as caught:
        corpus_of(tmp_path, a_jsonl=b'{"text": "a b"}\n{"text": "b c"}\n{"text": "c d"}\n')
    assert caught.value.remedy and not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"[ ]\n"])
def test_row_25_a_file_without_examples_is_refused(tmp_path, content):
    (tmp_path / "examples.jsonl").write_bytes(content)
    with pytest.raises(EmptyDataError, match="holds no example"):
        read_examples(tmp_path / "examples.jsonl")


def test_row_27_of_rows_with_one_id_the_first_stays_and_the_others_are_counted(tmp_path):
    rows = [{"id": "one", "text": text(1)}, {"id": "two", "text": text(2)}, {"id": "one", "text": text(3)}]
    datasheet, kept = corpus_of(tmp_path, a_jsonl="\n".join(map(json.dumps, rows)).encode())
    assert datasheet["drops_by_rule"] == {"duplicate-id": 1} and datasheet["documents_in"] == 3
    assert sorted(document.text for document in kept) == sorted(text(number).strip() for number in (1, 2))


def named_file_readers(path: Path):
    """Everything that reads a file which a recipe names, beside the sources."""
    return {
        "finetuning.examples": lambda: read_examples(path),
        "data.bias.groups": lambda: bias.read_lexicon(str(path)),
        "data.augmentation.lexicon": lambda: augment.read_lexicon(path),
        "data.personal.key_file": lambda: Redactor(PersonalConfig(action="pseudonym", key_file=str(path))),
    }


@pytest.mark.timeout(30)
@pytest.mark.parametrize("key", sorted(named_file_readers(Path())))
@pytest.mark.parametrize("kind", ["pipe", "endless", "circle", "folder"])
def test_row_28_a_named_file_that_is_none_is_refused_and_never_waited_for(tmp_path, key, kind):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"endless": "/dev/zero", "circle": path}[kind])
    with pytest.raises(PreceptorError) as caught:
        named_file_readers(path)[key]()
    assert isinstance(caught.value, DataError | ConfigError) and caught.value.remedy
