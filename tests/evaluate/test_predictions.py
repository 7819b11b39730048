"""What models with heads say: the same as document by document, in the order of the examples, in bounded memory."""

import gc

import numpy as np
import pytest
import torch

from preceptor.evaluate.predictions import (
    best_of_windows,
    predict_classes,
    predict_label_sets,
    predict_numbers,
    predict_tags,
    span_text,
)
from preceptor.models import decoder, encoder, encoder_decoder
from preceptor.models.heads import HeadConfig, attach_head, span_head
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.answer import AnswerObjective, with_answer
from preceptor.objectives.classify import ClassifyObjective, with_class
from preceptor.objectives.labelled import Framing
from preceptor.objectives.regress import RegressObjective, with_numbers
from preceptor.objectives.tag import TagObjective, with_tags
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

VOCAB_SIZE, CONTEXT, LONG = 40, 24, 4
SHAPE = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2, "max_position_embeddings": CONTEXT}
MADE = {
    "encoder": (encoder, encoder.EncoderConfig, {"initializer_range": 0.2}, Framing(0, 1, 1, "first")),
    "decoder": (
        decoder,
        decoder.DecoderConfig,
        {"initializer_range": 0.2, "zero_init_outputs": False, "head_dim": 16},
        Framing(0, 1, 1, "last"),
    ),
    "encoder_decoder": (
        encoder_decoder,
        encoder_decoder.EncoderDecoderConfig,
        {"head_dim": 16, "decoder_start_token_id": 0},
        Framing(0, 1, 1, "first", is_encoder_decoder=True),
    ),
}
HEADS = {
    "class": HeadConfig(labels=("a", "b", "c")),
    "several": HeadConfig(labels=("a", "b", "c"), multi_label=True),
    "number": HeadConfig(kind="regression", labels=("x", "y")),
    "tag": HeadConfig(kind="tagger", labels=("a", "b", "c", "d")),
    "answer": span_head(),
}


@pytest.fixture(params=MADE)
def family(request):
    return request.param


@pytest.fixture(params=["encoder", "decoder"])
def reading(request):
    return request.param


def build(family):
    module, config, more, framing = MADE[family]
    model = module.build(config(**SHAPE, **more), torch.Generator().manual_seed(1))
    for name, head in HEADS.items():
        attach_head(model, name, head, torch.Generator().manual_seed(len(name)))
        with torch.no_grad():
            model.heads[name].output.weight.mul_(20)
    return model.eval(), framing


def texts(count=11):
    """Texts of which one is too long to be read."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 9, (count,), generator=draw).tolist()
    lengths[LONG] = CONTEXT
    return [torch.randint(2, VOCAB_SIZE, (length,), generator=draw).tolist() for length in lengths]


@torch.no_grad()
def alone(model, head, framing, example):
    """The scores of one document by itself at its supervised places, of shape M C."""
    labels = torch.tensor(example.labels)
    inputs = Inputs(torch.tensor([example.tokens]), token_types_BT=torch.tensor([example.token_types]))
    if framing.is_encoder_decoder:
        hidden = model.hidden(Inputs(torch.tensor([[framing.first]]), source=inputs))[0]
    else:
        hidden = model.hidden(inputs)[0][labels != IGNORED]
    return model.heads[head](hidden)


def check_order(objective):
    """That packing has put the documents into another order, or the tests below show nothing."""
    assert objective.num_too_long == 1 and objective.plan.pieces.tolist() != sorted(objective.plan.pieces.tolist())


def test_classes_are_those_of_documents_alone_in_their_order(family):
    model, framing = build(family)
    examples = [with_class(framing, text, 0, second=text[:2] if text[0] % 2 else None) for text in texts()]
    objective = ClassifyObjective(examples, "class", CONTEXT, framing)
    check_order(objective)
    said, probabilities = predict_classes(model, objective, rows_at_once=2)
    assert probabilities.shape == (11, 3) and said[LONG] is None and np.isnan(probabilities[LONG]).all()
    expected = [alone(model, "class", framing, each)[0].softmax(-1) for each in examples]
    for place, each in enumerate(expected):
        if place != LONG:
            np.testing.assert_allclose(probabilities[place], each, atol=1e-5)
            assert said[place] == "abc"[int(each.argmax())]
    assert np.nanmax(probabilities[:, 0]) > 1.02 * np.nanmin(probabilities[:, 0])


def test_several_classes_and_numbers(family):
    model, framing = build(family)
    examples = [with_class(framing, text, [0.0, 1.0, 0.0]) for text in texts()]
    objective = ClassifyObjective(examples, "several", CONTEXT, framing)
    said, probabilities = predict_label_sets(model, objective, rows_at_once=1)
    assert said[LONG] is None and len(set(said)) > 2
    for place, example in enumerate(examples):
        if place != LONG:
            expected = alone(model, "several", framing, example)[0].sigmoid()
            np.testing.assert_allclose(probabilities[place], expected, atol=1e-5)
            assert said[place] == tuple(np.array(list("abc"))[(expected > 0.5).numpy()])
    numbered = [with_numbers(framing, text, [0.0, 1.0]) for text in texts()]
    numbers = predict_numbers(model, RegressObjective(numbered, "number", CONTEXT, framing))
    assert numbers.shape == (11, 2) and np.isnan(numbers[LONG]).all()
    for place, example in enumerate(numbered):
        if place != LONG:
            np.testing.assert_allclose(numbers[place], alone(model, "number", framing, example)[0], atol=1e-4)


def spans_of(model, objective, **settings):
    """Where answers stand in texts each of which is one window."""
    count = objective.num_examples + objective.num_too_long
    return best_of_windows(model, objective, range(count), [0] * count, count, **settings)


def test_tags_of_words(reading):
    model, framing = build(reading)
    words = [[text[:2], [], text[2:3], text[3:]] for text in texts()]
    examples = [with_tags(framing, each, [0] * len(each)) for each in words]
    objective = TagObjective(examples, "tag", CONTEXT, framing)
    check_order(objective)
    said = predict_tags(model, objective, rows_at_once=2)
    assert said[LONG] is None
    for place, example in enumerate(examples):
        if place != LONG:
            expected = ["abcd"[best] for best in alone(model, "tag", framing, example).argmax(-1).tolist()]
            assert said[place] == expected
            assert len(expected) == 2 + bool(words[place][3])


def test_where_answers_stand(reading):
    model, framing = build(reading)
    examples = [with_answer(framing, text[:2], text[2:], (0, 0)) for text in texts()]
    objective = AnswerObjective(examples, "answer", CONTEXT, framing)
    check_order(objective)
    said = spans_of(model, objective, max_answer_tokens=3, rows_at_once=2)
    assert said[LONG] is None
    for place, example in enumerate(examples):
        if place != LONG:
            scores = alone(model, "answer", framing, example)
            spans = [(i, j) for i in range(1, len(scores)) for j in range(i, min(len(scores), i + 3))]
            best = max([(0, 0), *spans], key=lambda span: float(scores[span[0], 0] + scores[span[1], 1]))
            assert said[place] == (() if best == (0, 0) else (best[0] - 1, best[1] - 1))
    assert any(said) and len(set(said)) > 3


def test_answers_are_characters_of_the_text_and_learned_ones_are_found(tmp_path):
    contexts = [
        "Ada Lovelace wrote the naïve programme.",
        "It was written by Grace Hopper, not by Ada.",
        "Nobody knows. " * 30,
    ]
    answers = ["Ada Lovelace", "Grace Hopper", "Nobody"]
    tokenizer = train(contexts * 3, TokenizerConfig(vocab_size=300), tmp_path)
    module, config, more, framing = MADE["encoder"]
    shape = SHAPE | {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 64}
    model = attach_head(module.build(config(**shape, **more)), "answer", span_head())
    question = tokenizer.encode("Who?")
    examples = []
    for context, answer in zip(contexts, answers, strict=True):
        ids, places = tokenizer.encode_with_places(context)
        begin = context.index(answer)
        inside = [n for n, (first, end) in enumerate(places) if first < begin + len(answer) and end > begin]
        assert span_text((inside[0], inside[-1]), context, tokenizer).startswith(answer)
        examples.append(with_answer(framing, question, ids, (inside[0], inside[-1])))
    assert span_text((), contexts[0], tokenizer) == ""
    objective = AnswerObjective(examples, "answer", 64, framing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = objective.collate(range(objective.num_rows))
    for _ in range(30):
        optimizer.zero_grad()
        objective.loss(model, batch).total.backward()
        optimizer.step()
    *found, too_long = spans_of(model, objective)
    said = [span_text(span, context, tokenizer) for span, context in zip(found, contexts[:2], strict=True)]
    assert [each.rstrip(",.") for each in said] == answers[:2] and too_long is None
    assert model.training


def live_numbers():
    """How many numbers the tensors hold that are alive."""
    return sum(each.numel() for each in gc.get_objects() if type(each) is torch.Tensor)


@pytest.mark.parametrize("kind", ["class", "tag", "answer"])
def test_memory_does_not_grow_with_the_number_of_examples(kind):
    model, framing = build("encoder")
    makers = {
        "class": (ClassifyObjective, predict_classes, lambda text: with_class(framing, text, 0)),
        "tag": (
            TagObjective,
            predict_tags,
            lambda text: with_tags(framing, [[token] for token in text], [0] * len(text)),
        ),
        "answer": (AnswerObjective, spans_of, lambda text: with_answer(framing, text[:1], text[1:], None)),
    }
    make_objective, predict, make = makers[kind]
    most = []
    for times in (1, 10):
        objective = make_objective([make([5, 6, 7, 8])] * 24 * times, kind, CONTEXT, framing)
        before, seen = live_numbers(), []

        def look(module, given, result, seen=seen):
            assert not result.requires_grad
            # Looking at everything that is alive takes its time, so that not every batch is looked at.
            seen.append(live_numbers() if len(seen) < 3 or len(seen) % 8 == 7 else 0)

        handle = model.heads[kind].register_forward_hook(look)
        predict(model, objective, rows_at_once=2)
        handle.remove()
        assert len(seen) == objective.num_rows // 2
        most.append(max(seen) - before)
    assert len(seen) >= 20 and most[1] <= most[0]
