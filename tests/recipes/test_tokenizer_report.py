"""The comparison of tokenizers: counts that can be checked by hand, in text, JSON and a page."""

import json
from html.parser import HTMLParser

import pytest

from preceptor.core.errors import EmptyDataError
from preceptor.data.document import Document
from preceptor.recipes.tokenizer_report import as_html, as_text, compare, write
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

TRAINING = [f"the dog {n} sleeps, the cat {n * n} wakes and the <b>bird</b> sings" for n in range(60)]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    sizes = {"byte-bpe": 320, "char": 60, "word": 60}
    return {
        f"<{kind}>": train(TRAINING, TokenizerConfig(kind=kind, vocab_size=size), tmp_path_factory.mktemp(kind))
        for kind, size in sizes.items()
    }


@pytest.fixture
def documents():
    texts = [("the dog sleeps", "en", "a"), ("the cat wakes", "en", "b"), ("жжж жж", "ru", "b")]
    made = []
    for text, language, collection in texts:
        document = Document.new(text, "x", collection=collection)
        object.__setattr__(document, "language", language)
        made.append(document)
    return made


def test_the_counts_are_those_made_by_hand(tokenizers, documents):
    rows = compare(tokenizers, iter(documents), hidden_size=8, body_parameters=1000)
    for row, (name, tokenizer) in zip(rows, tokenizers.items(), strict=True):
        ids = [tokenizer.encode(document.text) for document in documents]
        assert row.name == name and row.overall.tokens == sum(map(len, ids))
        assert row.overall.bytes == sum(len(document.text.encode()) for document in documents)
        assert row.overall.words == 8 and row.overall.documents == 3
        assert row.by_language["ru"].tokens == len(ids[2]) and row.by_language["ru"].fertility == len(ids[2]) / 2
        assert row.by_source["b"].tokens == len(ids[1]) + len(ids[2])
        assert row.used_tokens == len({token for each in ids for token in each})
        unknown = sum(each.count(tokenizer.unknown_id) for each in ids)
        assert row.unknown_rate == unknown / row.overall.tokens
        assert row.round_trip_rate == (1 if name == "<byte-bpe>" else 2 / 3)
        assert row.embedding_share == 8 * tokenizer.vocab_size / (8 * tokenizer.vocab_size + 1000)
        assert row.megabytes_per_second > 0
    untied = compare(tokenizers, documents, hidden_size=8, body_parameters=1000, is_tied=False)
    assert untied[0].embedding_parameters == 2 * rows[0].embedding_parameters


def test_it_is_written_as_text_as_json_and_as_a_page(tokenizers, documents, tmp_path):
    rows = compare(tokenizers, documents, hidden_size=8, body_parameters=1000)
    write(rows, tmp_path / "report")
    said = json.loads((tmp_path / "report" / "tokenizers.json").read_text())["tokenizers"]
    assert [each["name"] for each in said] == list(tokenizers)
    assert said[1]["overall"]["bytes_per_token"] == rows[1].overall.bytes_per_token
    text = as_text(rows)
    assert (tmp_path / "report" / "tokenizers.txt").read_text() == text
    assert "tokens per word by language" in text and "tokens per word by source" in text
    page = as_html(rows)
    assert "&lt;char&gt;" in page and "<char>" not in page and "<script" not in page and "http" not in page
    opened = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attributes):
            opened.append(tag)

    Tags().feed(page)
    assert opened.count("rect") == 3 and opened.count("table") == 3


def test_nothing_to_compare_is_said(tokenizers, documents):
    with pytest.raises(EmptyDataError):
        compare(tokenizers, [], hidden_size=8, body_parameters=1)
    with pytest.raises(EmptyDataError):
        compare({}, documents, hidden_size=8, body_parameters=1)
