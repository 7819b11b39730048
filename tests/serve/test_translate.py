"""Targets of encoder-decoders: those of transformers' own generation, alone and in batches, greedy and by beams."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from oracle import randomise, transformers_model

from preceptor.models.encoder_decoder import build
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.interchange import save_model
from preceptor.nn.inputs import Inputs
from preceptor.serve.chat import Responder
from preceptor.serve.sampling import SamplingConfig
from preceptor.serve.translate import source_ids, stream_target, target_ids
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

START, END, VOCAB_SIZE, LONGEST = 3, 5, 13, 24
SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_decoder_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": LONGEST,
    "decoder_start_token_id": START,
}
T5 = {
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "initializer_factor": 0.5,
    "gated": False,
    "hidden_act": "relu",
    "tie_word_embeddings": True,
    "scale_decoder_outputs": True,
}
BART = {
    "positions": "learned",
    "position_offset": 2,
    "norm": "layernorm",
    "norm_placement": "after",
    "norm_eps": 1e-5,
    "normalize_embedding": True,
    "gated": False,
    "hidden_act": "gelu",
    "bias": True,
    "attention_scale": 0.0,
    "tie_word_embeddings": True,
    "final_logits_bias": True,
}


def let_some_end(model):
    """Teach the model a little to end some targets early, by the length of the source; half learned, it is unsure."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    pairs = [(source, [*source[: len(source) // 2], END]) for source in sources()]
    for _ in range(25):
        optimizer.zero_grad()
        for source, target in pairs:
            inputs = Inputs(torch.tensor([[START, *target[:-1]]]), source=Inputs(torch.tensor([source])))
            loss, _, count = model.loss_sum(inputs, torch.tensor([target]))
            (loss / count).backward()
        optimizer.step()


@pytest.fixture(scope="module", params=["T5", "BART"])
def pair(request, tmp_path_factory):
    fields = T5 if request.param == "T5" else BART
    ours = randomise(build(EncoderDecoderConfig(**SMALL, **fields), torch.Generator().manual_seed(1))).eval()
    let_some_end(ours)
    folder = tmp_path_factory.mktemp("model")
    save_model(ours, folder)
    return ours, transformers_model(folder, "AutoModelForSeq2SeqLM").eval()


def sources():
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(6, VOCAB_SIZE, (n,), generator=draw).tolist() for n in (5, 9, 3, 12, 7, 5, 1, 6)]


def theirs_say(model, source, end, **settings):
    said = model.generate(
        input_ids=torch.tensor([source]),
        attention_mask=torch.ones(1, len(source), dtype=torch.long),
        do_sample=False,
        eos_token_id=end,
        pad_token_id=0,
        decoder_start_token_id=START,
        forced_bos_token_id=None,
        forced_eos_token_id=None,
        early_stopping=False,
        **settings,
    )[0].tolist()[1:]
    return said[: said.index(end)] if end in said else said


@pytest.mark.parametrize(("beams", "penalty", "longest"), [(1, 1.0, 12), (2, 1.0, 12), (4, 0.0, 10), (4, 2.0, 15)])
def test_targets_are_those_of_transformers(pair, beams, penalty, longest):
    ours, theirs = pair
    config = SamplingConfig(temperature=0.0, beams=beams, length_penalty=penalty, max_new_tokens=longest)
    found = target_ids(ours, sources(), config, END, batch_size=3)
    # Settings of beams are refused where there are none.
    more = {"length_penalty": penalty} if beams > 1 else {}
    expected = [
        theirs_say(theirs, source, END, num_beams=beams, max_new_tokens=longest, **more) for source in sources()
    ]
    assert found == expected


@torch.no_grad()
def test_some_targets_end_and_beams_find_likelier_ones(pair):
    ours, _ = pair
    likelihoods, lengths = [], set()
    for beams in (1, 4):
        config, total = SamplingConfig(temperature=0.0, beams=beams, length_penalty=0.0, max_new_tokens=10), 0.0
        for source, target in zip(sources(), target_ids(ours, sources(), config, END), strict=True):
            lengths.add(len(target))
            said = torch.tensor([*target, END] if len(target) < 10 else target)
            read = torch.cat((torch.tensor([START]), said[:-1])).unsqueeze(0)
            logits = ours(Inputs(read, source=Inputs(torch.tensor([source]))))[0]
            total += float(logits.log_softmax(-1)[torch.arange(len(said)), said].sum())
        likelihoods.append(total)
    assert len(lengths) > 1 and likelihoods[1] > likelihoods[0]


def test_a_target_is_the_same_alone_in_a_batch_and_as_a_stream(pair):
    ours, _ = pair
    for config in (
        SamplingConfig(temperature=0.0, max_new_tokens=9),
        SamplingConfig(temperature=0.0, beams=3, max_new_tokens=9),
    ):
        alone = [target_ids(ours, [source], config, END)[0] for source in sources()]
        assert (
            target_ids(ours, sources(), config, END) == target_ids(ours, sources(), config, END, batch_size=2) == alone
        )
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=9)
    assert [list(stream_target(ours, source, greedy, END)) for source in sources()] == target_ids(
        ours, sources(), SamplingConfig(temperature=0.0, max_new_tokens=9), END
    )
    longest = target_ids(ours, sources(), SamplingConfig(temperature=0.0, max_new_tokens=500), VOCAB_SIZE)
    assert {len(target) for target in longest} == {LONGEST}


def test_the_seed_decides_what_is_drawn(pair):
    ours, _ = pair
    drawn = [
        target_ids(ours, sources(), SamplingConfig(temperature=2.0, seed=seed, max_new_tokens=8), END)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = ["some words to write about, and others"] * 3
    return train(texts, TokenizerConfig(vocab_size=280), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def writer(tokenizer):
    fields = SMALL | T5 | {"vocab_size": tokenizer.vocab_size}
    return randomise(build(EncoderDecoderConfig(**fields), torch.Generator().manual_seed(2)))


def test_long_sources_are_cut_behind_what_stands_in_front(tokenizer):
    end = tokenizer.end_of_text_id
    ids, was_cut = source_ids(tokenizer, "others " * 40, LONGEST, prefix_ids=(7,))
    assert was_cut and len(ids) == LONGEST and ids[0] == 7 and ids[-1] == end
    assert source_ids(tokenizer, "some words", LONGEST) == ([*tokenizer.encode("some words"), end], False)


def test_a_responder_answers_with_an_encoder_decoder(writer, tokenizer):
    writer.eval()
    responder = Responder(writer, tokenizer, SamplingConfig(temperature=0.0, max_new_tokens=6))
    asked = ["some words", "others"]
    answers = responder.answer_many(asked)
    sources = [[*tokenizer.encode(text), tokenizer.end_of_text_id] for text in asked]
    targets = target_ids(writer, sources, SamplingConfig(temperature=0.0, max_new_tokens=6), tokenizer.end_of_text_id)
    assert answers == [tokenizer.decode(target).strip() for target in targets]
    assert answers == ["".join(responder.answer(question)).strip() for question in asked]
    assert responder.answer_many_in_plain_text(asked) == answers
    assert "".join(responder.continue_text(asked[0])).strip() == answers[0]
    # With beams the temperature says nothing, and an answer comes as a whole.
    config = SamplingConfig(beams=3, length_penalty=0.0, max_new_tokens=6)
    best = target_ids(writer, sources, config, tokenizer.end_of_text_id)
    looking = Responder(writer, tokenizer, config)
    assert looking.answer_many(asked) == [tokenizer.decode(target).strip() for target in best] != answers
    assert looking.answer_many(asked) == ["".join(looking.answer(question)).strip() for question in asked]


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"max_new_tokens": 0}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingConfig(**wrong)
