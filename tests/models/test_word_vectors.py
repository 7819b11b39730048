"""Starting embeddings from word vectors: every format to the bit, what a token takes, sizes, coverage, broken files."""

import gzip
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import ConfigError, DataError, EmptyDataError
from preceptor.models.word_vector_files import open_vectors
from preceptor.models.word_vectors import Coverage, starting_rows
from preceptor.models.word_vectors_config import WordVectorsConfig
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

TEXTS = [
    *["The cat and the dog ran, and Paris saw the grand cat run. 日本 42\n"] * 30,
    *["(the dog) ran to Paris; the cat sleeps and the grand dog ran\n"] * 20,
    *[f"number {n} of the many words\n" for n in range(40)],
]
SIZES = {"byte-bpe": 350, "unigram": 314, "sentencepiece-bpe": 330, "word": 90, "char": 90}
WORDS = [
    "the",
    "cat",
    "dog",
    "paris",
    "ran",
    "grand",
    ",",
    "42",
    "日本",
    "unseen",
    "naïve",
    ". . .",
    "\u00a0",
    "a\u3000b",
]


def vectors_of(words, size, seed=0):
    numbers = np.random.Generator(np.random.PCG64(seed)).normal(size=(len(words), size)).astype(np.float32)
    return dict(zip(words, numbers, strict=True))


def as_binary(table, ending=b"\n"):
    size = len(next(iter(table.values())))
    head = f"{len(table)} {size}\n".encode()
    spell = [w if isinstance(w, bytes) else w.encode() for w in table]
    return head + b"".join(
        w + b" " + v.astype("<f4").tobytes() + ending for w, v in zip(spell, table.values(), strict=True)
    )


def as_text(table, header=True, ending="\n"):
    size = len(next(iter(table.values())))
    lines = [f"{len(table)} {size}"] if header else []
    # repr of a float32 as a double gives the very same float32 back
    lines += [" ".join([word, *(repr(float(x)) for x in vector)]) for word, vector in table.items()]
    return "".join(line + ending for line in lines).encode()


FORMATS = {
    "word2vec.bin": as_binary,
    "word2vec-without-line-ends.bin": lambda table: as_binary(table, b""),
    "word2vec.bin.gz": lambda table: gzip.compress(as_binary(table)),
    "glove.txt": lambda table: as_text(table, header=False),
    "glove.txt.gz": lambda table: gzip.compress(as_text(table, header=False)),
    "fasttext.vec": lambda table: as_text(table, ending=" \n"),
    "fasttext.txt": as_text,
    "windows.txt": lambda table: b"\xef\xbb\xbf" + as_text(table, ending="\r\n"),
}


class Everything:
    def __contains__(self, word):
        return True


def read(path, wanted=None):
    file = open_vectors(path)
    return dict(file.vectors(Everything() if wanted is None else wanted)), file


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    return {
        kind: train(iter(TEXTS), TokenizerConfig(kind=kind, vocab_size=size), tmp_path_factory.mktemp(kind))
        for kind, size in SIZES.items()
    }


def written(path, data):
    path.write_bytes(data)
    return path


def rows(tokenizer, path, hidden_size, seed=3, **more):
    return starting_rows(tokenizer, path, hidden_size, torch.Generator().manual_seed(seed), 0.02, **more)


def token_of(tokenizer, text):
    return [t for t in range(tokenizer.vocab_size) if tokenizer.token_bytes(t) == text.encode()]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_vectors_back_to_the_bit(name, tmp_path):
    words = [w for w in WORDS if " " not in w] if name == "word2vec-without-line-ends.bin" else WORDS
    table = vectors_of(words, 7)
    got, file = read(written(tmp_path / name, FORMATS[name](table)))
    assert list(got) == [w.encode() for w in words] and (file.size, file.num_words) == (7, len(words))
    for word, vector in table.items():
        assert got[word.encode()].dtype == np.float32 and got[word.encode()].tobytes() == vector.tobytes()


@pytest.mark.parametrize("ending", [b"\n", b""], ids=["line ends", "no line ends"])
def test_binary_words_may_hold_any_byte(ending, tmp_path):
    odd = [b"</s>", b"\xff\xfe\x00", b"\xc3", b"tab\tbed", b"\x80" * 300, "日本".encode()]
    odd += [b"New York", b"a  b "] if ending else []
    table = vectors_of(odd, 5)
    # vectors whose bytes are spaces and line ends
    table[b"\xc3"] = np.frombuffer(b" \n \n" * 5, "<f4").astype(np.float32)
    got, _ = read(written(tmp_path / "odd.bin", as_binary(table, ending)))
    assert {w: v.tobytes() for w, v in got.items()} == {w: v.tobytes() for w, v in table.items()}


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("ab é日\u00a0", min_size=1, max_size=6).map(str.strip).filter(len), st.integers(), min_size=1
    ),
    st.integers(1, 9),
    st.sampled_from(["word2vec.bin", "fasttext.vec", "glove.txt.gz"]),
)
def test_what_is_written_is_read(tmp_path_factory, table, size, name):
    words = [word for word in table if " " not in word] or ["a"]
    expected = vectors_of(words, size)
    got, _ = read(written(tmp_path_factory.mktemp("any") / name, FORMATS[name](expected)))
    assert {w: v.tobytes() for w, v in got.items()} == {w.encode(): v.tobytes() for w, v in expected.items()}


def test_a_large_file_is_read_across_its_chunks(tmp_path):
    table = vectors_of([f"word{n}" for n in range(3000)], 200)  # 2.4 MB of numbers, read by the megabyte
    got, file = read(written(tmp_path / "large.bin", as_binary(table)), {b"word0", b"word1700", b"word2999"})
    assert file.num_words == 3000
    assert {w: v.tobytes() for w, v in got.items()} == {w: table[w.decode()].tobytes() for w in got}
    assert len(got) == 3


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("name", ["word2vec.bin", "glove.txt", "fasttext.vec"])
def test_a_token_takes_the_vector_of_its_word(kind, name, tokenizers, tmp_path):
    tokenizer = tokenizers[kind]
    table = vectors_of([*WORDS, "c"], 6)
    got, coverage = rows(tokenizer, written(tmp_path / name, FORMATS[name](table)), 6)
    assert got.shape == (tokenizer.vocab_size, 6) and got.dtype == torch.float32
    texts = ["c", ","] if kind == "char" else [" the", " cat", " dog", " ran", " grand"]
    texts = [text for text in texts if token_of(tokenizer, text)]
    assert len(texts) >= 2
    covered = [token_of(tokenizer, text)[0] for text in texts]
    expected = np.stack([table[text.strip()] for text in texts])
    factor = float(got[covered[0], 0]) / float(expected[0, 0])
    torch.testing.assert_close(got[covered], torch.from_numpy(expected) * factor)
    assert len(texts) <= coverage.num_covered < coverage.num_tokens == tokenizer.vocab_size


def test_capitals_are_looked_up_again_in_small_letters(tokenizers, tmp_path):
    tokenizer = tokenizers["word"]
    (paris,) = token_of(tokenizer, " Paris")
    path = written(tmp_path / "g.txt", as_text(vectors_of(["paris", "cat", "dog"], 4), header=False))
    table = vectors_of(["paris", "cat", "dog"], 4)
    got, coverage = rows(tokenizer, path, 4)
    (cat,) = token_of(tokenizer, " cat")
    factor = got[cat, 0] / table["cat"][0]
    torch.testing.assert_close(got[paris], torch.from_numpy(table["paris"]) * factor)
    assert coverage.num_lowercased == 1
    _, coverage = rows(tokenizer, path, 4, lowercase=False)
    assert coverage.num_lowercased == 0 and coverage.num_covered == 2
    # the word as it is written wins, wherever it stands in the file
    for words in (["Paris", "paris"], ["paris", "Paris"]):
        table = vectors_of(words, 4)
        got, coverage = rows(tokenizer, written(path, as_text(table, header=False)), 4)
        assert coverage.num_lowercased == 0
        ratio = got[paris] / torch.from_numpy(table["Paris"])
        torch.testing.assert_close(ratio, ratio[:1].expand(4))


def test_a_word_that_comes_twice_keeps_its_first_vector(tokenizers, tmp_path):
    path = written(tmp_path / "g.txt", b"cat 1 -1 2\ncat 7 7 8\n")
    got, coverage = rows(tokenizers["word"], path, 3)
    (cat,) = token_of(tokenizers["word"], " cat")
    assert coverage.num_words == 2 and got[cat, 1] == -got[cat, 0] and coverage.num_covered == 1


def test_a_piece_that_only_looks_like_a_word_stays_random(tokenizers, tmp_path):
    """'e' goes on from the token before; ' the', ',' and '4' stand by themselves."""
    tokenizer = tokenizers["byte-bpe"]
    table = vectors_of(["the", "e", "an", ",", "4"], 8)
    with_pieces, _ = rows(tokenizer, written(tmp_path / "a.txt", as_text(table)), 8)
    without = {word: table[word] for word in ("the", ",", "4")}
    without_pieces, _ = rows(tokenizer, written(tmp_path / "b.txt", as_text(without)), 8)
    (piece,), (word,), (comma,), (digit,) = (token_of(tokenizer, text) for text in ("e", " the", ",", "4"))
    assert torch.equal(with_pieces[piece], without_pieces[piece])
    for token, text in ((comma, ","), (digit, "4")):
        ratio = without_pieces[token] / torch.from_numpy(table[text])
        factor = without_pieces[word] / torch.from_numpy(table["the"])
        torch.testing.assert_close(ratio, factor)


def test_a_word_without_a_space_before_it_is_a_word_of_a_word_tokenizer(tokenizers, tmp_path):
    tokenizer = tokenizers["word"]
    assert token_of(tokenizer, "the")  # from "(the dog)"
    _, coverage = rows(tokenizer, written(tmp_path / "g.txt", as_text(vectors_of(["the"], 4))), 4)
    assert coverage.num_covered == len(
        [t for text in ("the", " the", "The", " The") for t in token_of(tokenizer, text)]
    )


@pytest.mark.parametrize("std", [0.0, 0.5])
@pytest.mark.parametrize("hidden_size", [3, 8, 20])
def test_filled_rows_are_as_large_as_the_random_ones(hidden_size, std, tokenizers, tmp_path):
    tokenizer = tokenizers["word"]
    path = written(tmp_path / "g.txt", as_text(vectors_of(WORDS, 8)))
    got, coverage = rows(tokenizer, path, hidden_size, std=std)
    random = torch.empty(tokenizer.vocab_size, hidden_size)
    random.normal_(0.0, 0.02, generator=torch.Generator().manual_seed(3))
    filled = (got != random).any(1)
    assert int(filled.sum()) == coverage.num_covered  # all others are the generator's first numbers
    assert math.isclose(float(got[filled].std(correction=0)), std or 0.02, rel_tol=1e-5)
    assert torch.equal(got, rows(tokenizer, path, hidden_size, std=std)[0])
    assert not torch.equal(got, rows(tokenizer, path, hidden_size, std=std, seed=4)[0])


def test_longer_vectors_keep_their_products_as_well_as_any_map_does(tokenizers, tmp_path):
    """Eckart and Young: no products of rank 3 are nearer to the true ones than those of the singular vectors."""
    tokenizer = tokenizers["word"]
    table = vectors_of(WORDS, 8)
    path = written(tmp_path / "g.txt", as_text(table))
    full, coverage = rows(tokenizer, path, 8)
    small, _ = rows(tokenizer, path, 3)
    random = torch.empty(tokenizer.vocab_size, 8).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(3))
    filled = (full != random).any(1)
    assert coverage.num_covered == int(filled.sum()) > 3
    left, values, _ = torch.linalg.svd(full[filled].double(), full_matrices=False)
    best = left[:, :3] * values[:3]
    got = small[filled].double()
    got *= best.norm() / got.norm()
    torch.testing.assert_close(got @ got.T, best @ best.T)
    torch.testing.assert_close(got.norm(dim=0), values[:3])


def test_shorter_vectors_keep_their_numbers(tokenizers, tmp_path):
    tokenizer = tokenizers["word"]
    table = vectors_of(WORDS, 30)
    got, _ = rows(tokenizer, written(tmp_path / "g.txt", as_text(table)), 50)
    (cat,), (dog,) = (token_of(tokenizer, text) for text in (" cat", " dog"))
    ratio = got[[cat, dog], :30] / torch.from_numpy(np.stack([table["cat"], table["dog"]]))
    torch.testing.assert_close(ratio, ratio[:1, :1].expand(2, 30))
    padding = got[[cat, dog], 30:]
    assert 0.05 < float(padding.std() / got[[cat, dog], :30].std()) < 0.2
    assert not torch.equal(padding[0], padding[1])


def test_coverage_says_itself_in_words_and_as_json(tokenizers, tmp_path):
    tokenizer = tokenizers["word"]
    (cat,), (dog,) = (token_of(tokenizer, text) for text in (" cat", " dog"))
    path = written(tmp_path / "g.txt", as_text(vectors_of(["cat", "zebra"], 4)))
    _, coverage = rows(tokenizer, path, 2, token_counts={cat: 3, dog: 9})
    assert coverage == Coverage(
        num_tokens=tokenizer.vocab_size,
        num_covered=1,
        num_lowercased=0,
        num_words=2,
        file_size=4,
        hidden_size=2,
        num_text_tokens=12,
        num_text_covered=3,
    )
    assert coverage.sentence() == (
        f"1 of {tokenizer.vocab_size} tokens ({1 / tokenizer.vocab_size:.1%}) start from the vectors of 2 words, 0 of "
        "them from the word in small letters; the others start from random numbers. They make up 3 of the text's 12 "
        "tokens (25.0%). The vectors' 4 numbers were reduced to 2 by principal components."
    )
    assert coverage.to_json()["text_share"] == 0.25 and coverage.to_json()["num_covered"] == 1
    _, bare = rows(tokenizer, path, 4)
    assert bare.text_share is None and bare.to_json()["text_share"] is None
    assert bare.sentence().endswith("random numbers.")
    assert "filled up to 6" in rows(tokenizer, path, 6)[1].sentence()


TABLE = vectors_of(["the", "cat", "dog"], 4)
BROKEN = {
    "empty.txt": (b"", EmptyDataError, "no word vectors"),
    "empty.bin": (b"", EmptyDataError, "no word vectors"),
    "empty.txt.gz": (gzip.compress(b""), EmptyDataError, "no word vectors"),
    "none.vec": (b"0 4\n", EmptyDataError, "no word vectors"),
    "torn.bin": (as_binary(TABLE)[:-9], DataError, "word 3 of 3 is torn"),
    "torn-plain.bin": (as_binary(TABLE, b"")[:-1], DataError, "word 3 of 3 is torn"),
    "torn.bin.gz": (gzip.compress(as_binary(TABLE))[:-12], DataError, "gzip compression is broken"),
    "flipped.txt.gz": (gzip.compress(as_text(TABLE))[:-8] + b"\0" * 8, DataError, "gzip compression is broken"),
    "longer.bin": (as_binary(TABLE) + b"more", DataError, "bytes are left"),
    "short.vec": (as_text(TABLE).replace(b"3 4\n", b"4 4\n"), DataError, "says 4 words, but 3 were found"),
    "long.vec": (as_text(TABLE).replace(b"3 4\n", b"2 4\n"), DataError, "says 2 words, but 3 were found"),
    "columns.txt": (b"the 1 2 3\ncat 1 2\n", DataError, "columns.txt:2: 2 numbers after the word, expected 3"),
    "more.txt": (b"the 1 2 3\ncat 1 2 3 4\n", DataError, "more.txt:2: 4 numbers after the word, expected 3"),
    "no-word.txt": (b"the 1 2 3\n 1 2 3\n", DataError, "no-word.txt:2: "),
    "blank.txt": (b"the 1 2 3\n\ncat 1 2 3\n", DataError, "blank.txt:2: "),
    "header.vec": (as_text(TABLE).replace(b"3 4\n", b"3 5\n"), DataError, "header.vec:2: 4 numbers"),
    "word.txt": (b"the 1 2 3\ncat 1 x 3\n", DataError, "word.txt:2: not a number"),
    "nan.txt": (b"the 1 2 3\ncat 1 nan 3\n", DataError, "nan.txt:2: a number is not finite"),
    "large.txt": (b"the 1 2 3\ncat 1 1e39 3\n", DataError, "large.txt:2: a number is not finite"),
    "nan.bin": (as_binary({"cat": np.array([1, np.nan], np.float32)}), DataError, "not finite"),
    "latin.txt": ("the 1 2 3\nna\u00efve 1 2 3\n".encode("latin-1"), DataError, "latin.txt:2: not UTF-8"),
    "wide.txt": ("the 1 2 3\n".encode("utf-16"), DataError, "wide.txt:1: not UTF-8"),
    "text.bin": (as_text(TABLE, header=False), DataError, "binary format starts with"),
    "binary.txt": (as_binary(TABLE), DataError, "binary.txt:2: "),
    "model.bin": (bytes.fromhex("ba161b2f") + b"\0" * 80, DataError, "binary format"),
    "fasttext.bin": ((793712314).to_bytes(4, "little") + b"\0" * 80, DataError, "fastText model"),
    "glove.zip": (b"PK\x03\x04" + b"\0" * 80, DataError, "zip archive"),
    "prose.txt": (b"word\n", DataError, "prose.txt:1: the line is not a word and its numbers"),
    "width.vec": (b"3 99999999\nthe 1\n", DataError, "width.vec:1: "),
    "others.txt": (b"zebra 1 2 3\nyak 1 2 4\n", EmptyDataError, "none of its 2 words"),
    "zero.txt": (b"the 0 0 0\ncat 0 0 0\n", DataError, "all numbers of the tokens' vectors are the same"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_place_and_a_remedy(name, tokenizers, tmp_path):
    data, kind, said = BROKEN[name]
    with pytest.raises(kind) as caught:
        rows(tokenizers["word"], written(tmp_path / name, data), 4)
    assert said in caught.value.message and name in caught.value.message and caught.value.remedy


def test_a_binary_file_cut_anywhere_is_refused(tokenizers, tmp_path):
    data = as_binary(TABLE)
    for length in range(len(data) - 1):  # the last line end may be missing
        with pytest.raises(DataError):
            rows(tokenizers["word"], written(tmp_path / "cut.bin", data[:length]), 4)


def test_a_path_to_nothing_is_refused(tokenizers, tmp_path):
    with pytest.raises(ConfigError, match="no file of word vectors"):
        rows(tokenizers["word"], tmp_path / "none.txt", 4)
    with pytest.raises(ValueError, match="hidden_size"):
        rows(tokenizers["word"], written(tmp_path / "g.txt", as_text(TABLE)), 0)


def test_the_config_refuses_what_cannot_hold():
    assert WordVectorsConfig(path="glove.txt", freeze=True).lowercase
    with pytest.raises(ValueError, match="freeze"):
        WordVectorsConfig(freeze=True)
    for std in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="std"):
            WordVectorsConfig(path="glove.txt", std=std)
