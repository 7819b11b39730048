"""Prefixes and prompts in training: packed documents, objectives, and activations made anew."""

import numpy as np
import pytest
import torch
from virtual_token_samples import (
    ENCODERS,
    FAMILIES,
    MADE,
    NUM_TOKENS,
    PAIRS,
    PREFIX,
    PROMPT,
    START,
    VOCAB_SIZE,
    adapted,
    built,
    in_front,
    next_tokens,
    our_states,
    tokens,
)

from preceptor.adapters.attach import adapt, virtual_ids
from preceptor.models.heads import HeadConfig, attach_head, span_head
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.answer import AnswerObjective, best_answer, with_answer
from preceptor.objectives.batch import Batch
from preceptor.objectives.classify import ClassifyObjective, with_class
from preceptor.objectives.labelled import Framing
from preceptor.objectives.noise import InputNoise
from preceptor.objectives.noise_config import InputNoiseConfig
from preceptor.objectives.pairs import PairObjective
from preceptor.objectives.tag import TagObjective, with_tags
from preceptor.train.activations import saving_activations
from preceptor.train.memory_config import MemoryConfig

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LENGTHS = (7, 5, 8)


@pytest.fixture(params=[PREFIX, MADE, PROMPT], ids=["prefix", "made prefix", "prompt"])
def config(request):
    return request.param


def texts(seed=5):
    return list(tokens(1, sum(LENGTHS), seed)[0].split(list(LENGTHS)))


def side(documents, virtual=(), padding=0):
    """Documents as one packed row, each with the prompt in front, and padding behind."""
    whole = [in_front(list(virtual), each.unsqueeze(0))[0] for each in documents]
    lengths = [*(len(each) for each in whole), padding] if padding else [len(each) for each in whole]
    whole += [torch.zeros(padding, dtype=torch.int64)] if padding else []
    places = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    numbers = torch.tensor([-1 if padding and number == len(documents) else number for number in range(len(lengths))])
    return Inputs(torch.cat(whole).unsqueeze(0), places, numbers.repeat_interleave(torch.tensor(lengths)).unsqueeze(0))


def packed(name, model, documents, padding=0):
    """What the model reads of a row of documents; of an encoder-decoder they are targets, each with a source."""
    if name not in PAIRS:
        return side(documents, virtual_ids(model), padding)
    return side(documents, (), padding)._replace(source=side([each.flip(0)[:4] for each in documents],
                                                             virtual_ids(model), 2))  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_document_is_as_if_alone_and_sees_nothing_of_the_others(name, config):
    model, documents = adapted(name, config), texts()
    row = packed(name, model, documents, padding=3)
    states = our_states(name, model, row)
    start = 0
    for number, document in enumerate(documents):
        alone = our_states(name, model, packed(name, model, [document]))[0]
        here = slice(start, start + alone.shape[0])
        torch.testing.assert_close(states[0, here], alone, **CLOSE)
        start += alone.shape[0]
        others = [each if place == number else (each + 7) % VOCAB_SIZE for place, each in enumerate(documents)]
        changed = our_states(name, model, packed(name, model, others, padding=3))
        assert torch.equal(changed[0, here], states[0, here])
        assert not torch.equal(changed, states)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ENCODERS])
def test_the_loss_of_a_row_is_the_sum_of_those_of_its_documents_and_so_are_gradients(name, config):
    model, documents = adapted(name, config), texts()

    def loss(documents):
        inputs = packed(name, model, documents)
        behind = torch.where(inputs.segments_BT == inputs.segments_BT.roll(-1), next_tokens(inputs.tokens_BT), IGNORED)
        return model.loss_sum(inputs, torch.where(behind < VOCAB_SIZE, behind, IGNORED))[0]

    def gradients(total):
        model.zero_grad()
        total.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    whole, parts = loss(documents), sum(loss([document]) for document in documents)
    torch.testing.assert_close(whole, parts, **CLOSE)
    one, other = gradients(whole), gradients(parts)
    assert one
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "bert", "t5"])
def test_activations_made_anew_give_the_same_gradients(name, config, tmp_path):
    model = adapted(name, config).train()

    def gradients(memory):
        model.zero_grad()
        torch.manual_seed(5)
        with saving_activations(model, memory, tmp_path):
            our_states(name, model, packed(name, model, texts())).square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients(MemoryConfig())
    assert plain and all(gradient.any() for name, gradient in plain.items() if "embedding_PW" not in name)
    for how in ("full", "every-nth", "by-operation"):
        again = gradients(MemoryConfig(activation_checkpointing=how))
        assert again.keys() == plain.keys() and all(torch.equal(again[name], plain[name]) for name in plain), how
    kept = gradients(MemoryConfig(activation_checkpointing="full", keep_activations_in="disk"))
    assert all(torch.equal(kept[name], plain[name]) for name in plain)


def framing(speaks, virtual):
    return Framing(0, 1, 1, speaks, prefix_ids=tuple(virtual))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_labels_stay_at_their_tokens_behind_a_prompt(name):
    model = adapted(name, PROMPT)
    frame = framing("last" if name == "llama" else "first", virtual_ids(model))
    text = [5, 6, 7, 8]
    classified = with_class(frame, text, 2, second=[9])
    assert classified.tokens == [*virtual_ids(model), 0, *text, 1, 9, 1]
    assert classified.token_types == [0] * (NUM_TOKENS + 6) + [1, 1]
    assert classified.labels.index(2) == (len(classified.tokens) - 1 if name == "llama" else 0)
    tagged = with_tags(frame, [text[:2], text[2:]], [3, 4])
    at = [NUM_TOKENS + place for place in ((2, 4) if name == "llama" else (1, 3))]
    assert [tagged.labels[place] for place in at] == [3, 4] and sum(label != IGNORED for label in tagged.labels) == 2
    answered = with_answer(frame, [5, 6], text, (1, 2))
    assert [answered.tokens[place] for place, label in enumerate(answered.labels) if label > 0] == text[1:3]
    assert [place for place, label in enumerate(answered.labels) if label != IGNORED][1] == NUM_TOKENS + 4
    scores = torch.tensor([[float(label == 1), float(label == 2)] for label in answered.labels])
    stands = torch.tensor(answered.labels) != IGNORED
    first, last = best_answer(scores, stands, 5)
    assert answered.tokens[first : last + 1] == text[1:3]


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_the_loss_of_a_head_is_the_sum_over_documents_behind_a_prompt(name):
    model = built(name)
    attach_head(model, "topic", HeadConfig(labels=("a", "b", "c")), torch.Generator().manual_seed(4))
    attach_head(model, "answer", span_head(), torch.Generator().manual_seed(5))
    adapt(model, PROMPT, torch.Generator().manual_seed(3))
    frame = Framing(0, 1, 1, "last" if name == "llama" else "first", name == "t5", tuple(virtual_ids(model)))
    made = [with_class(frame, text.tolist(), place) for place, text in enumerate(texts())]
    whole = ClassifyObjective(made, "topic", 40, frame)
    total = sum(whole.loss(model, whole.collate([row])).total.item() for row in range(whole.num_rows))
    alone = 0.0
    for each in made:
        one = ClassifyObjective([each], "topic", 40, frame)
        batch = one.collate([0])
        assert (batch.inputs.source or batch.inputs).tokens_BT[0, :NUM_TOKENS].tolist() == virtual_ids(model)
        alone += one.loss(model, batch).total.item()
    assert whole.num_rows == 1 and total == pytest.approx(alone, rel=1e-5)
    if name != "t5":
        asked = AnswerObjective([with_answer(frame, [5, 6], [7, 8, 9], (0, 1))], "answer", 40, frame)
        asked.loss(model, asked.collate([0])).total.backward()
        assert model.input_embedding.prompt_PD.grad.any()
        attach_head(model, "tags", HeadConfig(kind="tagger", labels=("a", "b")))
        tags = TagObjective([with_tags(frame, [[5], [6]], [0, 1])], "tags", 40, frame)
        assert tags.loss(model, tags.collate([0])).tokens == 2


def test_a_prompt_stands_in_front_of_the_source_of_a_pair():
    class Words:
        end_of_text_id = 0

        def encode_many(self, texts):
            return [np.array([int(word) for word in text.split()]) for text in texts]

    pairs = [("5 6 7", "8 9"), ("10 11", "12")]
    ids = [VOCAB_SIZE, VOCAB_SIZE + 1]
    objective = PairObjective(pairs, Words(), 16, start_id=START, prefix_ids=ids)
    batch = objective.collate(range(objective.num_rows))
    source, segments = batch.inputs.source.tokens_BT[0], batch.inputs.source.segments_BT[0]
    found = [source[segments == number].tolist() for number in range(2)]
    assert sorted(found) == [[*ids, 5, 6, 7, 0], [*ids, 10, 11, 0]]
    assert not (batch.labels_BT >= VOCAB_SIZE).any() and not (batch.inputs.tokens_BT >= VOCAB_SIZE).any()
    assert PairObjective(pairs, Words(), 5, start_id=START, prefix_ids=ids).num_too_long == 1


def test_noise_leaves_a_prompt_alone():
    ids = in_front([VOCAB_SIZE + place for place in range(NUM_TOKENS)], tokens())
    noise = InputNoise(InputNoiseConfig(dropout=0.5, replacement=0.5), 3, VOCAB_SIZE, 0)
    noisy = noise(Batch(Inputs(ids), ids), 2, 0).tokens_BT
    assert torch.equal(noisy[:, :NUM_TOKENS], ids[:, :NUM_TOKENS])
    assert (noisy[:, NUM_TOKENS:] != ids[:, NUM_TOKENS:]).float().mean() > 0.9 and noisy[:, NUM_TOKENS:].max() < 61
