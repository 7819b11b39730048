"""Every kind of tokenizer: the same ids in `tokenizers` and transformers, and what comes back from them."""

import re
import subprocess
import sys
import warnings
from collections import Counter

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import ConfigError
from preceptor.tokenizer import byte_bpe as module
from preceptor.tokenizer.config import SPECIAL_TOKENS, TokenizerConfig
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.tokenizer.training import train

TEXTS = [
    *("The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n" * n for n in (1, 2, 3)),
    "def dedent(text):\n    '''Remove any common leading whitespace.'''\n    return text\n",
    "Ärger, naïve, 日本語 and 🙂 — and £10.\r\n\tTabs  and   spaces",
    *(f"number {n} of many, {n * n} squared; a word such as {'ab' * (n % 7)}" for n in range(80)),
]
SIZES = {"byte-bpe": 400, "unigram": 420, "sentencepiece-bpe": 420, "word": 200, "char": 200}
LOSSLESS = ("byte-bpe", "unigram", "sentencepiece-bpe")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\u2581\0"), max_size=60)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {kind: tmp_path_factory.mktemp(kind) for kind in SIZES}
    for kind, folder in made.items():
        train(iter(TEXTS), TokenizerConfig(kind=kind, vocab_size=SIZES[kind]), folder)
    return made


@pytest.fixture(scope="module")
def trained(folders):
    return {kind: Tokenizer.load(folder) for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", SIZES)
def test_tokenizers_and_transformers_give_the_same_ids(kind, folders, trained):
    theirs = tokenizers.Tokenizer.from_file(str(folders[kind] / "tokenizer.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        auto = AutoTokenizer.from_pretrained(folders[kind])
    many = trained[kind].encode_many(TEXTS)
    for text, ids in zip(TEXTS, many, strict=True):
        assert ids.tolist() == trained[kind].encode(text) == theirs.encode(text).ids == auto(text)["input_ids"]
    assert len(auto) == trained[kind].vocab_size
    assert auto.eos_token_id == trained[kind].end_of_text_id


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=TEXT)
@settings(deadline=None, max_examples=80)
def test_the_text_comes_back_at_once_and_token_by_token(kind, trained, text):
    tokenizer = trained[kind]
    ids = tokenizer.encode(text)
    stream = tokenizer.decode_stream()
    assert tokenizer.decode(ids) == text == "".join([*map(stream.push, ids), stream.finish()])


@pytest.mark.parametrize("kind", ["word", "char"])
def test_known_units_come_back_and_others_are_the_unknown_token(kind, trained):
    tokenizer = trained[kind]
    text = "The quick brown fox\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()
    assert set(tokenizer.encode("ж" if kind == "char" else " zebra")) == {tokenizer.unknown_id}


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_no_text_gives_a_special_token(kind, token, trained):
    tokenizer = trained[kind]
    special = {tokenizer.special_id(each) for each in SPECIAL_TOKENS}
    for text in (token, f"The {token} dog", f"{token[:5]}{token}{token[5:]}"):
        assert not special & set(tokenizer.encode(text))


@pytest.mark.parametrize("kind", SIZES)
def test_half_a_surrogate_pair_is_a_replacement_character(kind, trained):
    tokenizer = trained[kind]
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")
    assert [ids.tolist() for ids in tokenizer.encode_many(["a\ud800b"])] == [tokenizer.encode("a\ufffdb")]


def test_a_word_must_be_frequent_enough_and_capitals_can_be_ignored(tmp_path):
    texts = ["one two two three three three", "Three"]
    config = TokenizerConfig(kind="word", vocab_size=50, min_frequency=2, lowercase=True)
    tokenizer = train(texts, config, tmp_path)
    counts = Counter(re.findall(r" ?\w+", " ".join(texts).lower()))
    assert counts[" two"] == 2 and counts["one"] == 1
    assert tokenizer.encode(" two") == tokenizer.encode(" TWO") != [tokenizer.unknown_id]
    assert tokenizer.encode("one") == [tokenizer.unknown_id]
    smallest = train(texts, TokenizerConfig(kind="word", vocab_size=6), tmp_path)
    assert smallest.vocab_size == 6 and smallest.encode(" three") != [smallest.unknown_id]


TRAIN_AGAIN = """
import sys
from pathlib import Path
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train
texts = Path(sys.argv[1]).read_text(encoding="utf-8").split("\\x1e")
print(train(iter(texts), TokenizerConfig(kind=sys.argv[2], vocab_size=int(sys.argv[3])), Path(sys.argv[4])).fingerprint)
"""


@pytest.mark.parametrize("kind", ["unigram", "word"])
def test_another_process_trains_the_same(kind, trained, tmp_path):
    (tmp_path / "texts").write_text("\x1e".join(TEXTS), encoding="utf-8", newline="")
    (tmp_path / "texts").write_bytes("\x1e".join(TEXTS).encode())
    command = [sys.executable, "-c", TRAIN_AGAIN, tmp_path / "texts", kind, str(SIZES[kind]), tmp_path]
    environment = {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    # Universal newlines of read_text change one text; it is the same change on both sides only if there is none.
    again = [text.replace("\r\n", "\n") for text in TEXTS]
    here = train(again, TokenizerConfig(kind=kind, vocab_size=SIZES[kind]), tmp_path)
    assert result.stdout.strip() == here.fingerprint


@given(
    st.lists(st.text("ab c'st\n\r\t 1é日\u2028\x1c.", max_size=120), min_size=1, max_size=12),
    st.sampled_from([5, 30, 400]),
)
@settings(deadline=None, max_examples=80)
def test_the_fast_trainer_gives_the_merges_of_the_reference(tmp_path_factory, texts, extra):
    path = tmp_path_factory.getbasetemp() / "fast"
    with path.open("wb") as file:
        assert module._write(texts, file) is None
    assert module._fast(path, 259 + extra, 0) == module._exact(texts, 259 + extra, 0)


def test_the_reference_trains_where_the_fast_trainer_cannot(tmp_path, monkeypatch, capsys):
    odd = ["a vertical\x0btab", *TEXTS]
    config = TokenizerConfig(vocab_size=380)
    here = train(iter(odd), config, tmp_path)
    monkeypatch.setattr(module, "_is_trusted", lambda *arguments: False)
    assert train(odd, config, tmp_path).fingerprint == here.fingerprint
    assert here.decode(here.encode(odd[0])) == odd[0]
    trusted = train(TEXTS, config, tmp_path).fingerprint
    monkeypatch.undo()
    assert train(TEXTS, config, tmp_path).fingerprint == trusted
    monkeypatch.setattr(module, "_fast", lambda *arguments: ({}, []))
    assert train(TEXTS, config, tmp_path).fingerprint == trusted
    assert "differs from the reference" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_impossible_settings_are_refused(tmp_path):
    for wrong in ({"vocab_size": 5, "kind": "word", "lowercase": 1, "path": "x"}, {"kind": "import"}):
        with pytest.raises(ValueError, match=r"path must be"):
            TokenizerConfig(**wrong)
    with pytest.raises(ValueError, match="lowercase must be false for byte-bpe"):
        TokenizerConfig(lowercase=True)
    with pytest.raises(ValueError, match="vocab_size must be at least 261 for unigram, got 260"):
        TokenizerConfig(kind="unigram", vocab_size=260)
    with pytest.raises(ConfigError, match=r"cannot be trained|at most \d+ tokens"):
        train(["ab"], TokenizerConfig(kind="unigram", vocab_size=9000), tmp_path)
    letters = " ".join("abcdefghijklmnopqrstuvwxyz") * 9
    with pytest.raises(ConfigError, match="characters of this text alone need") as raised:
        train([letters], TokenizerConfig(kind="unigram", vocab_size=262), tmp_path)
    assert "or larger" in raised.value.remedy


@pytest.mark.parametrize("kind", ["byte-bpe", "word", "char", "unigram", "sentencepiece-bpe"])
def test_tokens_that_stand_for_hidden_ones(kind, tmp_path):
    size = SIZES[kind]
    tokenizer = train(TEXTS, TokenizerConfig(kind=kind, vocab_size=size, mask_token=True, num_sentinels=3), tmp_path)
    again = Tokenizer.load(tmp_path)
    assert tokenizer.vocab_size <= size
    hidden = [again.mask_id, *again.sentinel_ids]
    assert len(set(hidden)) == 4 and hidden == [tokenizer.mask_id, *tokenizer.sentinel_ids]
    assert again.decode([*again.encode(" quick brown"), *hidden]) == " quick brown"
    assert not set(again.encode("<|mask|> <|sentinel_0|>")) & set(hidden)
