"""Hidden tokens, hidden spans, prefixes and pairs: what is hidden, how much, that nothing is lost, and learning."""

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import ConfigError, DataError
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.interchange import architecture_of
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batches
from preceptor.objectives.choice import objective_for
from preceptor.objectives.masked import _spans
from preceptor.objectives.objective_config import FAMILIES, ObjectiveConfig
from preceptor.objectives.pairs import PairObjective
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.imports import import_tokenizer
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.training import train

CONTEXT = 32
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu") for b in ("ra", "sen", "tip", "vo", "xa")]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS = {
    "decoder": DecoderConfig(**SMALL, num_key_value_heads=1, head_dim=16),
    "encoder": EncoderConfig(**SMALL),
    "two_stream": TwoStreamConfig(**SMALL),
    "encoder_decoder": EncoderDecoderConfig(**SMALL, head_dim=16),
}
# Models of transformers have tests of their own, in tests/models/test_foreign.py.
CHOICES = [(kind, family) for kind, families in FAMILIES.items() for family in families if family in MODELS]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [" ".join(WORDS[(n * k) % 20] for k in range(1, 30)) for n in range(1, 60)]
    config = TokenizerConfig(vocab_size=320, mask_token=True, num_sentinels=8)
    return train(texts, config, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def stream(tokenizer):
    draw = np.random.default_rng(0)
    documents = [" ".join(draw.choice(WORDS, int(draw.integers(1, 60)))) for _ in range(50)]
    ids = [[*tokenizer.encode(text), tokenizer.end_of_text_id] for text in documents]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    flat = np.array([token for each in ids for token in each], np.uint16)
    return TokenStream(flat, offsets, [str(n) for n in range(50)], 1000)


def objective(kind, family, tokenizer, stream, seed=1, **fields):
    return objective_for(ObjectiveConfig(kind=kind, **fields), stream, CONTEXT, tokenizer, seed, MODELS[family])


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_as_much_is_hidden_as_was_asked_for(tokenizer, stream, unit):
    made = objective("masked", "encoder", tokenizer, stream, unit=unit, share=0.15)
    plain = made.packed.collate(range(made.num_rows)).labels_BT
    kinds = np.zeros(3)
    hidden = 0
    for visit in range(12):
        batch = made.collate(range(made.num_rows), range(visit * made.num_rows, (visit + 1) * made.num_rows))
        chosen = batch.labels_BT != IGNORED
        assert torch.equal(batch.labels_BT[chosen], plain[chosen])
        assert (batch.tokens_BT[~chosen & (plain != IGNORED)] == plain[~chosen & (plain != IGNORED)]).all()
        assert not (batch.labels_BT[chosen] == tokenizer.end_of_text_id).any()
        assert chosen.any(dim=1).all()
        shown, true = batch.tokens_BT[chosen], batch.labels_BT[chosen]
        is_mask, is_same = shown == tokenizer.mask_id, shown == true
        kinds += [int(is_mask.sum()), int(is_same.sum()), int((~is_mask & ~is_same).sum())]
        hidden += int(chosen.sum())
    places = 12 * int((plain != IGNORED).sum())
    assert 0.135 < hidden / places < 0.165
    # A random token may be the true one by chance, which is rarer than one in a hundred.
    assert np.abs(kinds / kinds.sum() - [0.8, 0.1, 0.1]).max() < 0.03


def test_words_are_hidden_whole(tokenizer, stream):
    made = objective("masked", "encoder", tokenizer, stream, unit="word", share=0.3)
    batch = made.collate(range(made.num_rows))
    plain = made.packed.collate(range(made.num_rows)).labels_BT.numpy()
    hidden = batch.labels_BT.numpy() != IGNORED
    segments = batch.inputs.segments_BT.numpy()
    edges = np.array([tokenizer.word_edges(token) for token in range(tokenizer.vocab_size)])
    known = np.where(plain == IGNORED, 0, plain)
    inside = ~edges[known, 0]
    inside[:, 1:] &= ~edges[known, 1][:, :-1]
    for row in range(made.num_rows):
        for place in range(1, CONTEXT):
            if inside[row, place] and segments[row, place] == segments[row, place - 1] >= 0:
                assert hidden[row, place] == hidden[row, place - 1]
    assert inside.any()


def test_a_word_starts_after_a_mark_and_a_word_piece_says_so_itself(tokenizer, tmp_path):
    def edges(of, text):
        return [of.word_edges(token) for token in of.encode(text)]

    assert edges(tokenizer, "(a b")[:2] == [(True, True), (False, False)]
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "ka", "##ra", "(", "[CLS]", "[SEP]", "[MASK]"])}
    pieces = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    pieces.save(str(tmp_path / "tokenizer.json"))
    bert = import_tokenizer(tmp_path / "tokenizer.json", "gpt2")
    assert [start for start, _ in edges(bert, "kara (ka")] == [True, False, True, True]


def test_spans_are_as_long_as_in_spanbert():
    """Joshi et al. 2020, section 3.1: geometric lengths up to ten, 3.8 on the average."""
    draw = np.random.default_rng(0)
    places, segments = np.arange(4000), np.zeros(4000, np.int64)
    lengths = []
    for _ in range(300):
        # So few are hidden in so many that spans hardly ever meet, and the last one alone is cut.
        chosen = _spans(places, segments, 60, draw)
        runs = np.diff(np.flatnonzero(np.concatenate(([True], np.diff(chosen) > 1, [True]))))
        lengths += runs.tolist()
    assert max(lengths) >= 9
    assert abs(np.mean(lengths) - 3.8) < 0.2


def test_the_end_of_a_text_is_never_hidden_in_a_span(tokenizer, stream):
    made = objective("spans", "encoder_decoder", tokenizer, stream, share=0.5)
    draw, end = np.random.default_rng(0), tokenizer.end_of_text_id
    for length in range(2, 20):
        for _ in range(20):
            text = np.append(np.full(length - 1, 300), end)
            source, target = made.hide(text, draw)
            assert source[-1] == end and (target == end).sum() == 1 and target[-1] == end


@pytest.mark.parametrize(("kind", "family"), CHOICES)
def test_what_is_drawn_follows_from_the_sample_alone(kind, family, tokenizer, stream):
    made = objective(kind, family, tokenizer, stream)
    batches = [Batches(made, 3, 8, size).at(5) for size in (8, 2)]
    whole, parts = (torch.cat([batch.labels_BT for batch in each]) for each in batches)
    assert torch.equal(whole, parts)
    again = objective(kind, family, tokenizer, stream).collate([0, 1], [7, 8])
    assert torch.equal(again.labels_BT, made.collate([0, 1], [7, 8]).labels_BT)
    if kind != "causal":
        many = [made.collate([0, 1, 2, 3], range(n, n + 4)) for n in range(0, 40, 4)]
        seen = {(each.labels_BT.numpy().tobytes(), each.tokens_BT.numpy().tobytes()) for each in many}
        assert len(seen) == len(many)
    if kind in ("masked", "spans", "prefix"):
        still = objective(kind, family, tokenizer, stream, dynamic=False)
        assert torch.equal(still.collate([0, 1], [0, 1]).labels_BT, still.collate([0, 1], [8, 9]).labels_BT)


@settings(deadline=None, max_examples=50)
@given(length=st.integers(2, 60), seed=st.integers(0, 99))
def test_source_and_target_together_are_the_text(tokenizer, stream, length, seed):
    made = objective("spans", "encoder_decoder", tokenizer, stream)
    tokens = np.arange(1000, 1000 + length)
    hidden, count = made._counts(length)
    if count > len(made.sentinels):
        return
    source, target = made.hide(tokens, np.random.default_rng(seed))
    assert (len(source), len(target)) == made._sizes(length)
    assert target[-1] == tokenizer.end_of_text_id
    spans, said = {}, None
    for token in target[:-1]:
        if token in made.sentinels:
            spans[said := int(token)] = []
        else:
            spans[said].append(int(token))
    rebuilt = [part for token in source for part in (spans[int(token)] if int(token) in spans else [int(token)])]
    assert rebuilt == tokens.tolist()
    assert sum(map(len, spans.values())) == hidden and all(spans.values())
    assert list(spans) == made.sentinels[:count].tolist()


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
@pytest.mark.parametrize("kind", ["spans", "prefix"])
def test_targets_are_said_token_by_token_behind_their_sources(kind, family, tokenizer, stream):
    made = objective(kind, family, tokenizer, stream)
    batch = made.collate(range(made.num_rows))
    labels, inputs = batch.labels_BT, batch.inputs
    supervised = labels != IGNORED
    if family == "encoder_decoder":
        assert (supervised == (inputs.segments_BT >= 0)).all()
        for row in range(made.num_rows):
            said = set(inputs.segments_BT[row].tolist()) - {-1}
            assert said == set(inputs.source.segments_BT[row].tolist()) - {-1}
        following = supervised[:, 1:] & (inputs.segments_BT[:, 1:] == inputs.segments_BT[:, :-1])
        assert torch.equal(inputs.tokens_BT[:, 1:][following], labels[:, :-1][following])
    else:
        assert inputs.prefix_BT.any() and supervised.any()
        # Nothing is predicted that the prefix shows: a place may be of the prefix only as its last.
        shown = inputs.prefix_BT[:, :-1] & supervised[:, :-1]
        assert not (inputs.prefix_BT[:, 1:] & shown & (inputs.segments_BT[:, 1:] == inputs.segments_BT[:, :-1])).any()


@pytest.mark.parametrize(("kind", "family"), CHOICES)
def test_learning(kind, family, tokenizer, stream):
    """A small model learns a few rows by heart: the loss falls far below that of any guess."""
    made = objective(kind, family, tokenizer, stream, dynamic=False)
    config = MODELS[family]
    config = type(config)(**{name: getattr(config, name) for name in config.__slots__} | {"vocab_size": 320})
    model = architecture_of(config).family.build(config, torch.Generator().manual_seed(0)).train()
    batch = made.collate(range(min(8, made.num_rows)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(400):
        loss = made.loss(model, batch)
        optimizer.zero_grad()
        (loss.total / loss.tokens).backward()
        optimizer.step()
        if loss.total.item() / loss.tokens < 0.5 * np.log(20):
            break
    assert loss.total.item() / loss.tokens < 0.5 * np.log(20), loss.total.item() / loss.tokens
    assert torch.equal(model.most_likely(batch.inputs, batch.labels_BT) == batch.labels_BT[batch.labels_BT != IGNORED],
                       model.losses_and_hits(batch.inputs, batch.labels_BT)[1][batch.labels_BT != IGNORED])  # fmt: skip


def test_pairs(tokenizer):
    pairs = [("kara losen", "mitip"), ("nuvo", "kaxa lora misen"), ("ka " * 200, "x")]
    made = PairObjective(pairs, tokenizer, CONTEXT, start_id=0)
    assert made.num_too_long == 1 and len(made.pairs) == 2
    batch = made.collate(range(made.num_rows))
    for row in range(made.num_rows):
        for segment in set(batch.inputs.segments_BT[row].tolist()) - {-1}:
            target = batch.labels_BT[row][batch.inputs.segments_BT[row] == segment].tolist()
            source = batch.inputs.source.tokens_BT[row][batch.inputs.source.segments_BT[row] == segment].tolist()
            assert target[-1] == source[-1] == tokenizer.end_of_text_id
            assert (tokenizer.decode(source), tokenizer.decode(target)) in pairs
    with pytest.raises(DataError, match="none of the 1 pairs"):
        PairObjective(pairs[2:], tokenizer, CONTEXT, start_id=0)


def test_what_does_not_go_together_is_refused(tokenizer, stream, tmp_path):
    with pytest.raises(ConfigError, match="does not train a model of the family 'decoder'"):
        objective("masked", "decoder", tokenizer, stream)
    plain = train(["kara losen mitip nuvo"] * 9, TokenizerConfig(vocab_size=262), tmp_path)
    with pytest.raises(ConfigError, match="no token that stands for a hidden one"):
        objective("masked", "encoder", plain, stream)
    with pytest.raises(ConfigError, match=r"num_sentinels|are needed"):
        objective("spans", "encoder_decoder", plain, stream)
    with pytest.raises(ConfigError, match="cannot blend"):
        objective_for(ObjectiveConfig(kind="spans"), stream, 32, tokenizer, 0, MODELS["decoder"], by_source=True)
