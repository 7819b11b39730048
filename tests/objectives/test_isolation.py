"""Documents packed into one row: changing one leaves the losses and gradients of the others as they were, to the bit.

For every family and everything it can be trained to do.
"""

import itertools

import numpy as np
import pytest
import torch

from preceptor.data.example_types import Conversation
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.heads import HeadConfig, attach_head, span_head
from preceptor.models.interchange import architecture_of
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.losses import IGNORED
from preceptor.objectives.answer import AnswerObjective, with_answer
from preceptor.objectives.batch import Batch
from preceptor.objectives.choice import objective_for
from preceptor.objectives.classify import ClassifyObjective, with_class
from preceptor.objectives.instruct import InstructObjective
from preceptor.objectives.labelled import framing_of
from preceptor.objectives.objective_config import FAMILIES, ObjectiveConfig
from preceptor.objectives.pairs import PairObjective
from preceptor.objectives.regress import RegressObjective, with_numbers
from preceptor.objectives.tag import TagObjective, with_tags
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.training import train

CONTEXT, VOCAB_SIZE = 64, 320
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"vocab_size": VOCAB_SIZE, "initializer_range": 0.2}
MODELS = {
    "decoder": DecoderConfig(**SMALL, num_key_value_heads=1, head_dim=16, zero_init_outputs=False),
    "encoder": EncoderConfig(**SMALL),
    "two_stream": TwoStreamConfig(**SMALL),
    "encoder_decoder": EncoderDecoderConfig(**SMALL, head_dim=16),
}
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu") for b in ("ra", "sen", "tip", "vo", "xa")]
HEADS = {
    "class": HeadConfig(labels=("a", "b", "c")),
    "several": HeadConfig(labels=("a", "b"), multi_label=True),
    "number": HeadConfig(kind="regression", labels=("x",)),
    "tag": HeadConfig(kind="tagger", labels=("a", "b", "c")),
    "answer": span_head(),
}
# An encoder-decoder speaks of a text in one place, so it cannot tag words or point at answers.
LABELLED = [
    (kind, family)
    for kind in HEADS
    for family in MODELS
    if family != "encoder_decoder" or kind not in ("tag", "answer")
]
CHOICES = [
    # Models of transformers have tests of their own, in tests/models/test_foreign.py.
    *((kind, family) for kind, families in FAMILIES.items() for family in families if family in MODELS),
    ("pairs", "encoder_decoder"),
    ("instruct", "decoder"),
    *LABELLED,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [" ".join(WORDS[(n * k) % 20] for k in range(1, 30)) for n in range(1, 60)]
    config = TokenizerConfig(vocab_size=VOCAB_SIZE, mask_token=True, num_sentinels=8)
    return train(texts, config, tmp_path_factory.mktemp("tokenizer"))


def drawn_texts(number, longest):
    draw = np.random.default_rng(3)
    return [" ".join(draw.choice(WORDS, int(draw.integers(3, longest)))) for _ in range(number)]


def labelled(kind, model, tokenizer):
    framing = framing_of(tokenizer, model.config)
    attach_head(model, kind, HEADS[kind], torch.Generator().manual_seed(5))
    ids = [tokenizer.encode(text) for text in drawn_texts(24, 8)]
    match kind:
        case "class":
            return ClassifyObjective([with_class(framing, each, each[0] % 3) for each in ids], kind, CONTEXT, framing)
        case "several":
            found = [with_class(framing, each, [float(each[0] % 2), 1.0]) for each in ids]
            return ClassifyObjective(found, kind, CONTEXT, framing)
        case "number":
            return RegressObjective(
                [with_numbers(framing, each, [each[0] / 100]) for each in ids], kind, CONTEXT, framing
            )
        case "tag":
            found = [with_tags(framing, [[token] for token in each], [token % 3 for token in each]) for each in ids]
            return TagObjective(found, kind, CONTEXT, framing)
    return AnswerObjective([with_answer(framing, each[:1], each[1:], (0, 1)) for each in ids], kind, CONTEXT, framing)


def objective_of(kind, model, tokenizer):
    if kind in HEADS:
        return labelled(kind, model, tokenizer)
    texts = drawn_texts(30, 14)
    if kind == "pairs":
        return PairObjective(list(itertools.pairwise(texts)), tokenizer, CONTEXT, start_id=0)
    if kind == "instruct":
        return InstructObjective([Conversation.of(text, text[::-1][:20]) for text in texts], tokenizer, CONTEXT)
    ids = [[*tokenizer.encode(text), tokenizer.end_of_text_id] for text in texts]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    flat = np.array([token for each in ids for token in each], np.uint16)
    stream = TokenStream(flat, offsets, [str(number) for number in range(len(ids))], 1000)
    return objective_for(ObjectiveConfig(kind=kind), stream, CONTEXT, tokenizer, 1, model.config)


def changed(inputs):
    """The inputs with other tokens in the first document of each row, also in its source."""
    tokens = torch.where(inputs.segments_BT == 0, (inputs.tokens_BT + 7) % VOCAB_SIZE, inputs.tokens_BT)
    source = None if inputs.source is None else changed(inputs.source)
    return inputs._replace(tokens_BT=tokens, source=source)


def others(batch):
    """The labels, and the targets that belong to them, of all documents but the first of each row."""
    is_other = batch.inputs.segments_BT > 0
    labels = batch.labels_BT.where(is_other, IGNORED)
    keep = is_other[batch.labels_BT != IGNORED]
    return labels, None if batch.targets is None else batch.targets[keep]


@pytest.mark.parametrize(("kind", "family"), CHOICES)
def test_the_others_do_not_notice(kind, family, tokenizer):
    config = MODELS[family]
    model = architecture_of(config).family.build(config, torch.Generator().manual_seed(2)).eval()
    objective = objective_of(kind, model, tokenizer)
    batch = objective.collate(range(min(4, objective.num_rows)))
    labels, targets = others(batch)
    assert (labels != IGNORED).sum() > 3
    found = []
    for inputs in (batch.inputs, changed(batch.inputs)):
        model.zero_grad()
        loss = objective.loss(model, Batch(inputs, labels, targets))
        loss.total.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.total.detach(), gradients, model.hidden(inputs)))
    (total, gradients, states), (total_after, gradients_after, states_after) = found
    assert torch.equal(total, total_after)
    assert gradients.keys() == gradients_after.keys() and len(gradients) > 10
    assert not [name for name in gradients if not torch.equal(gradients[name], gradients_after[name])]
    is_first = batch.inputs.segments_BT == 0
    assert not torch.equal(states[is_first], states_after[is_first])
    assert torch.equal(states[batch.inputs.segments_BT > 0], states_after[batch.inputs.segments_BT > 0])
