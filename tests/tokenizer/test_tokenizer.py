"""Byte-level BPE: identity, parity with `tokenizers` and transformers, safety, clear errors."""

import json
import warnings

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.artifact import write_folder
from preceptor.core.errors import ArtifactError, ConfigError, MismatchError
from preceptor.data.document import Document
from preceptor.tokenizer import tokenizer as module
from preceptor.tokenizer.chat import encode_example, encode_prompt
from preceptor.tokenizer.config import END_OF_TEXT, TokenizerConfig
from preceptor.tokenizer.stream import TokenStream, encode
from preceptor.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer
from preceptor.tokenizer.training import Sample, train

TEXTS = [
    "The quick brown fox jumps over the lazy dog. " * 3,
    "def dedent(text):\n    '''Remove any common leading whitespace.'''\n",
    "Ärger, naïve, 日本語 and 🙂 — and £10.\r\n\tTabs",
    *(f"number {n} of many, {n * n} squared" for n in range(60)),
]


def documents(texts):
    """A document for each text, from two sources in turn."""
    return [Document.new(text, f"file:{n}", collection="ab"[n % 2]) for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return train(TEXTS, TokenizerConfig(vocab_size=400), folder)


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=300)
def test_decode_of_encode_is_the_identity(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.text(max_size=60), min_size=1, max_size=8))
@settings(deadline=None, max_examples=150)
def test_the_fast_encoder_gives_the_ids_of_the_exact_one(tokenizer, texts):
    assert [ids.tolist() for ids in tokenizer.encode_many(texts)] == [tokenizer.encode(text) for text in texts]


def test_the_fast_encoder_is_in_use_and_a_wrong_one_is_not(tokenizer, folder, monkeypatch, capsys):
    tokenizer.encode_many(TEXTS)
    assert tokenizer._fast
    other = Tokenizer.load(folder)
    wrong = (np.zeros(1000, np.uint32), np.ones(1000, np.int64))
    monkeypatch.setattr(module, "_encode_fast", lambda fast, texts: (wrong[0][: len(texts)], wrong[1][: len(texts)]))
    assert [ids.tolist() for ids in other.encode_many(TEXTS)] == [tokenizer.encode(text) for text in TEXTS]
    assert "slower exact one" in capsys.readouterr().err


def test_the_file_loads_in_tokenizers_and_transformers_with_the_same_ids(tokenizer, folder):
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        auto = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert tokenizer.encode(text) == theirs.encode(text).ids == auto(text)["input_ids"]
    assert auto.eos_token_id == auto.pad_token_id == tokenizer.end_of_text_id
    assert len(auto) == tokenizer.vocab_size == 400


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_the_words_of_a_special_token_are_words(tokenizer, token):
    text = f"before {token} after"
    special = {tokenizer.special_id(token) for token in SPECIAL_TOKENS}
    assert not special & set(tokenizer.encode(text))
    assert not special & set(tokenizer.encode_many([text])[0].tolist())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_vocabulary_larger_than_the_text_gives_is_refused_with_the_largest(tmp_path):
    with pytest.raises(ConfigError, match=r"gives at most (\d+)") as raised:
        train(["aaaa bbbb"], TokenizerConfig(vocab_size=5000), tmp_path)
    largest = int(raised.value.expected.removeprefix("at most "))
    assert train(["aaaa bbbb"], TokenizerConfig(vocab_size=largest), tmp_path).vocab_size == largest
    with pytest.raises(ValueError, match="at least 259"):
        TokenizerConfig(vocab_size=200)


@given(st.text(max_size=80))
@settings(deadline=None, max_examples=200)
def test_streamed_text_is_the_text_and_never_broken(tokenizer, text):
    stream = tokenizer.decode_stream()
    pieces = [stream.push(token) for token in tokenizer.encode(text)] + [stream.finish()]
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_only_the_answer_and_its_end_are_supervised(tokenizer):
    ids, mask = encode_example(tokenizer, "What?", "That, 日本.")
    assert ids[: len(encode_prompt(tokenizer, "What?"))] == encode_prompt(tokenizer, "What?")
    supervised = [token for token, taken in zip(ids, mask, strict=True) if taken]
    assert supervised[-1] == tokenizer.end_of_text_id and ids.count(tokenizer.end_of_text_id) == 2
    assert tokenizer.decode(supervised) == "That, 日本."


def test_a_stream_gives_back_every_document_and_refuses_another_tokenizer(tokenizer, tmp_path):
    splits = {"train": TEXTS, "validation": ["", "only one"]}
    with write_folder(tmp_path / "tokens", "tokens", "key", {}) as draft:
        encode({split: documents(texts) for split, texts in splits.items()}, tokenizer, draft)
    for split, texts in splits.items():
        stream = TokenStream.open(tmp_path / "tokens", split, tokenizer)
        assert stream.num_documents == len(texts) and [name.decode() for name in stream.document_ids] == [
            document.id for document in documents(texts)
        ]
        assert [stream.collections[source] for source in stream.sources] == [d.collection for d in documents(texts)]
        assert stream.num_bytes == sum(len(text.encode()) for text in texts)
        for index, text in enumerate(texts):
            document = stream.document(index).tolist()
            assert document[-1] == tokenizer.end_of_text_id
            assert tokenizer.decode(document[:-1]) == text
    (tmp_path / "other").mkdir()
    other = train(TEXTS, TokenizerConfig(vocab_size=300), tmp_path / "other")
    with pytest.raises(MismatchError, match="another tokenizer"):
        TokenStream.open(tmp_path / "tokens", "train", other)
    with pytest.raises(ArtifactError, match="no split 'test'"):
        TokenStream.open(tmp_path / "tokens", "test", tokenizer)
    path = tmp_path / "tokens" / "train.tokens.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="bytes, expected"):
        TokenStream.open(tmp_path / "tokens", "train", tokenizer)


def test_a_file_that_is_no_tokenizer_is_said(tmp_path, folder):
    with pytest.raises(ArtifactError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)
    table = json.loads((folder / "tokenizer.json").read_text())
    table["added_tokens"] = [each for each in table["added_tokens"] if each["content"] != END_OF_TEXT]
    table["model"]["vocab"].pop(END_OF_TEXT)
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(ArtifactError, match=r"lacks the special token <\|endoftext\|>"):
        Tokenizer.load(tmp_path)


def test_streamed_text_is_whole_also_where_every_token_ends_inside_a_character(tokenizer):
    text = "日本語тест🙂" * 6
    single = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size)}
    stream = tokenizer.decode_stream()
    pieces = [stream.push(single[bytes([byte])]) for byte in text.encode()]
    assert "".join(pieces) == text and stream.finish() == ""
    assert set(pieces) <= {"", *text}
    assert stream.push(single[b"\xe6"]) == "" and stream.finish() == "\ufffd"
    assert stream.push(tokenizer.end_of_text_id) == "" == stream.push(10**6)


def test_an_empty_index_of_a_stream_is_said(tokenizer, tmp_path):
    with write_folder(tmp_path / "tokens", "tokens", "key", {}) as draft:
        encode({"train": documents(TEXTS)}, tokenizer, draft)
    (tmp_path / "tokens" / "train.offsets.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match="does not hold a token stream"):
        TokenStream.open(tmp_path / "tokens", "train", tokenizer)


def test_the_fast_encoder_proves_itself_on_texts_of_the_whole_corpus(tmp_path, monkeypatch, capsys):
    """A difference that only a late text shows is found in training, said, and remembered."""
    texts = [f"plain words number {number}, and more of them" for number in range(100)] + ["an odd ☃ one"] * 60
    exact = module._encode_fast

    def differs(fast, some):
        flat, lengths = exact(fast, some)
        return (flat + 1 if any("☃" in text for text in some) else flat), lengths

    monkeypatch.setattr(module, "_encode_fast", differs)
    (tmp_path / "odd").mkdir()
    config = TokenizerConfig(vocab_size=280)
    assert not train(texts, config, tmp_path / "odd").uses_fast_encoder
    assert "the fast encoder differs" in capsys.readouterr().err
    assert not Tokenizer.load(tmp_path / "odd")._fast_encoder(texts[:10])
    (tmp_path / "plain").mkdir()
    assert train(texts[:100], config, tmp_path / "plain").uses_fast_encoder
    assert Tokenizer.load(tmp_path / "plain")._fast_encoder(texts[:10])


def test_every_text_has_the_same_chance_to_be_kept():
    counts = np.zeros(400)
    for size in (50, 500):
        sample = Sample((str(number) for number in range(400)), size)
        assert [int(text) for text in sample] == list(range(400))
        assert len(sample.kept) == min(size, 400) == len(set(sample.kept))
        counts[[int(text) for text in sample.kept]] += 1
    assert 5 <= (counts[:100] > 1).sum() <= 25 and 5 <= (counts[-100:] > 1).sum() <= 25
