"""Heads over packed documents: each loss against the same computed document by document, isolation, and learning."""

import pytest
import torch
from torch.nn import functional as F

from preceptor.core.errors import DataError
from preceptor.models import decoder, encoder
from preceptor.models.heads import HeadConfig, attach_head, head_scores, span_head
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.answer import AnswerObjective, best_answer, with_answer
from preceptor.objectives.classify import ClassifyObjective, with_class
from preceptor.objectives.labelled import Framing, LabelledDocument
from preceptor.objectives.regress import RegressObjective, with_numbers
from preceptor.objectives.tag import TagObjective, with_tags

VOCAB_SIZE, CONTEXT = 40, 24
SHAPE = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2, "max_position_embeddings": CONTEXT, "initializer_range": 0.2}
FRAMINGS = {"encoder": Framing(0, 1, 1, "first"), "decoder": Framing(0, 1, 1, "last")}
HEADS = {
    "class": HeadConfig(labels=("a", "b", "c")),
    "several": HeadConfig(labels=("a", "b", "c"), multi_label=True),
    "number": HeadConfig(kind="regression", labels=("x", "y")),
    "tag": HeadConfig(kind="tagger", labels=("a", "b", "c", "d")),
    "answer": span_head(),
}


def build(family):
    more = {"zero_init_outputs": False, "head_dim": 16} if family == "decoder" else {}
    module = decoder if family == "decoder" else encoder
    config = module.DecoderConfig if family == "decoder" else module.EncoderConfig
    model = module.build(config(**SHAPE, **more), torch.Generator().manual_seed(1))
    for name, head in HEADS.items():
        attach_head(model, name, head, torch.Generator().manual_seed(len(name)))
    return model.eval()


@pytest.fixture(params=["encoder", "decoder"])
def family(request):
    return request.param


def texts(number=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (number,), generator=draw).tolist()
    return [torch.randint(2, VOCAB_SIZE, (length,), generator=draw).tolist() for length in lengths]


def examples(kind, framing, number=9, seed=0):
    found = []
    for place, text in enumerate(texts(number, seed)):
        if kind == "class":
            found.append(with_class(framing, text, text[0] % 3, second=text[1:3] if place % 2 else None))
        elif kind == "several":
            found.append(with_class(framing, text, [float(text[k] % 2) for k in range(3)]))
        elif kind == "number":
            found.append(with_numbers(framing, text, [text[0] / 10, text[1] / 20]))
        elif kind == "tag":
            words = [text[:2], text[2:3], text[3:]]
            found.append(with_tags(framing, words, [word[0] % 4 if word else 0 for word in words]))
        else:
            found.append(with_answer(framing, text[:2], text[2:], None if place % 4 == 3 else (0, len(text) % 2 // 1)
                                     if len(text) > 3 else (0, 0)))  # fmt: skip
    return found


KINDS = {
    "class": ClassifyObjective,
    "several": ClassifyObjective,
    "number": RegressObjective,
    "tag": TagObjective,
    "answer": AnswerObjective,
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def one_by_one(model, kind, each):
    """The loss of a document alone, written down directly."""
    scores = head_scores(
        model, kind, Inputs(torch.tensor([each.tokens]), token_types_BT=torch.tensor([each.token_types]))
    )
    labels = torch.tensor(each.labels)
    said, scores = labels[labels != IGNORED], scores[0][labels != IGNORED]
    if kind == "several":
        return F.binary_cross_entropy_with_logits(scores[0], torch.tensor(each.targets), reduction="sum")
    if kind == "number":
        return ((scores[0] - torch.tensor(each.targets)) ** 2).mean()
    if kind == "answer":
        starts, ends = (scores[:, column].log_softmax(0) for column in (0, 1))
        return -(starts[(said & 1) != 0].sum() + ends[(said & 2) != 0].sum()) / 2
    return F.cross_entropy(scores, said, reduction="sum")


def test_packed_losses_are_those_of_documents_alone(family, kind):
    model, framing = build(family), FRAMINGS[family]
    found = examples(kind, framing)
    objective = KINDS[kind](found, kind, CONTEXT, framing)
    assert objective.num_rows < len(found)
    loss = objective.loss(model, objective.collate(range(objective.num_rows)))
    expected = sum(one_by_one(model, kind, each) for each in found)
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)
    assert loss.tokens == (sum(label != IGNORED for e in found for label in e.labels) if kind == "tag" else len(found))
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.heads[kind].parameters())


def test_changing_one_packed_document_leaves_the_others_bit_identical(family, kind):
    model, framing = build(family), FRAMINGS[family]
    found = examples(kind, framing)
    objective = KINDS[kind](found, kind, CONTEXT, framing)
    batch = objective.collate([0])
    is_first = batch.inputs.segments_BT == 0
    assert (batch.inputs.segments_BT > 0).any()
    changed = batch.inputs._replace(tokens_BT=batch.tokens_BT.where(~is_first, (batch.tokens_BT + 5) % VOCAB_SIZE))
    before, after = (head_scores(model, kind, each) for each in (batch.inputs, changed))
    assert torch.equal(before[~is_first], after[~is_first]) and not torch.equal(before[is_first], after[is_first])
    gradients = []
    for inputs in (batch.inputs, changed):
        model.zero_grad()
        head_scores(model, kind, inputs)[~is_first].square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_learning(family, kind):
    model, framing = build(family).train(), FRAMINGS[family]
    objective = KINDS[kind](examples(kind, framing, 24), kind, CONTEXT, framing)
    batch = objective.collate(range(objective.num_rows))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    first = None
    for _ in range(120):
        loss = objective.loss(model, batch)
        first = loss.total.item() if first is None else first
        optimizer.zero_grad()
        (loss.total / loss.tokens).backward()
        optimizer.step()
    assert loss.total.item() < 0.1 * first
    assert int(loss.correct) >= 0.9 * loss.tokens


def test_balanced_classes_count_alike(family):
    framing, model = FRAMINGS[family], build(family)
    # Eight documents of one class, one of another, none of the third.
    found = [with_class(framing, text, int(place == 0)) for place, text in enumerate(texts())]
    plain = ClassifyObjective(found, "class", CONTEXT, framing)
    objective = plain.learned_by("balanced", 0.0, 3)
    assert plain.class_weights is None and objective.class_weights[:2].tolist() == [9 / 16, 9 / 2]
    everything = objective.collate(range(objective.num_rows))
    losses = [one_by_one(model, "class", each) for each in found]
    expected = 9 / 2 * (losses[0] + sum(losses[1:]) / 8)
    loss = objective.loss(model, everything)
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)
    assert loss.tokens == 9 and loss.correct == plain.loss(model, everything).correct


def test_presence_and_absence_of_a_rare_class_count_alike():
    framing, model = FRAMINGS["encoder"], build("encoder")
    found = [
        with_class(framing, text, [float(place == 0), float(place < 8), 0.0]) for place, text in enumerate(texts())
    ]
    objective = ClassifyObjective(found, "several", CONTEXT, framing).learned_by("balanced", 0.0, 3)
    assert objective.class_weights.tolist() == [8.0, 0.125, 8.0]
    expected = 0
    for each in found:
        scores = head_scores(model, "several", Inputs(torch.tensor([each.tokens])))[0, 0]
        targets = torch.tensor(each.targets)
        expected -= (torch.tensor([8.0, 0.125, 8.0]) * targets * F.logsigmoid(scores)).sum()
        expected -= ((1 - targets) * F.logsigmoid(-scores)).sum()
    loss = objective.loss(model, objective.collate(range(objective.num_rows)))
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["class", "several"])
def test_smoothed_targets_give_every_class_a_share(kind):
    framing, model = FRAMINGS["encoder"], build("encoder")
    found = examples(kind, framing)
    objective = ClassifyObjective(found, kind, CONTEXT, framing).learned_by("none", 0.3, 3)
    expected = 0
    for each in found:
        types = torch.tensor([each.token_types])
        scores = head_scores(model, kind, Inputs(torch.tensor([each.tokens]), token_types_BT=types))[0, 0]
        if kind == "class":
            target = 0.7 * F.one_hot(torch.tensor(each.labels[0]), 3) + 0.1
            expected -= (target * scores.log_softmax(0)).sum()
        else:
            target = 0.7 * torch.tensor(each.targets) + 0.15
            expected -= (target * F.logsigmoid(scores) + (1 - target) * F.logsigmoid(-scores)).sum()
    everything = objective.collate(range(objective.num_rows))
    loss, plain = (
        each.loss(model, everything) for each in (objective, ClassifyObjective(found, kind, CONTEXT, framing))
    )
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)
    assert loss.correct == plain.correct and not torch.equal(loss.total, plain.total)


def test_the_likeliest_answer():
    scores = torch.tensor([[1.0, 1.0], [0.0, 9.0], [6.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    can_stand = torch.tensor([True, True, True, True, False])
    assert best_answer(scores, can_stand, 2) == (2, 3)
    assert best_answer(scores, can_stand, 1) == (1, 1)
    assert best_answer(torch.zeros(5, 2) + torch.eye(5, 2) * 3, can_stand, 3) is None


def test_what_leaves_nothing_to_learn_is_refused():
    framing = FRAMINGS["encoder"]
    with pytest.raises(DataError, match="none of the 1 examples"):
        ClassifyObjective([with_class(framing, [3] * 50, 1)], "class", CONTEXT, framing)
    with pytest.raises(DataError):
        TagObjective([LabelledDocument([1, 2], [IGNORED, IGNORED])], "tag", CONTEXT, framing)
    with pytest.raises(ValueError, match="not in a text"):
        with_answer(framing, [3], [4, 5], (1, 2))
    with pytest.raises(ValueError, match="2 words and 1 tags"):
        with_tags(framing, [[1], [2]], [0])
    long = [with_class(framing, [3] * 50, 1), with_class(framing, [3], 1)]
    assert ClassifyObjective(long, "class", CONTEXT, framing).num_too_long == 1
