"""Models with heads as transformers' classes for tasks."""

import json

import pytest
import torch
from oracle import TOLERANCE, randomise, transformers_model

from preceptor.models.decoder import Decoder
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder import Encoder
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.heads import HeadConfig, attach_head, head_scores, span_head
from preceptor.models.task_layout import save_task_model, task_layout
from preceptor.nn.inputs import Inputs

LABELS = ("good", "bad", "so-so")
SHAPE = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
BERT = {"num_attention_heads": 4, "positions": "learned", "norm_placement": "after", "norm_bias": True, "gated": False,
        "attention_bias": True, "mlp_bias": True, "sliding_window": 0, "lm_head_bias": True}  # fmt: skip


def encoder(head, offset=0, **more):
    torch.manual_seed(3)
    config = EncoderConfig(**{**SHAPE, **BERT, "type_vocab_size": 2, "position_offset": offset, **more})
    return randomise(attach_head(Encoder(config), "topic", head))


@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize(
    ("head", "auto"),
    [
        (HeadConfig(labels=LABELS, dense=True), "AutoModelForSequenceClassification"),
        (HeadConfig(kind="regression", labels=("stars",), dense=True), "AutoModelForSequenceClassification"),
        (HeadConfig(kind="tagger", labels=LABELS), "AutoModelForTokenClassification"),
        (span_head(), "AutoModelForQuestionAnswering"),
    ],
)
def test_transformers_says_what_the_head_says(tmp_path, head, auto, offset):
    model = encoder(head, offset)
    layout = task_layout(model)
    save_task_model(model, layout, tmp_path / layout.folder)
    theirs = transformers_model(tmp_path / layout.folder, auto)
    assert type(theirs).__name__ == layout.class_name
    ids = torch.randint(4, 120, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours_BTC, said = head_scores(model, "topic", Inputs(ids)), theirs(ids)
    if head.kind == "span":
        torch.testing.assert_close(torch.stack([said.start_logits, said.end_logits], -1), ours_BTC, **TOLERANCE)
    else:
        expected = ours_BTC if head.kind == "tagger" else ours_BTC[:, 0]
        torch.testing.assert_close(said.logits, expected, **TOLERANCE)
        assert tuple(theirs.config.id2label[number] for number in range(len(head.labels))) == head.labels


def test_what_the_labels_are_is_said(tmp_path):
    model = encoder(HeadConfig(labels=LABELS, dense=True, multi_label=True))
    save_task_model(model, task_layout(model), tmp_path, torch.bfloat16)
    table = json.loads((tmp_path / "config.json").read_text())
    assert (table["problem_type"], table["dtype"]) == ("multi_label_classification", "bfloat16")
    assert table["label2id"] == {"good": 0, "bad": 1, "so-so": 2}


def test_parts_that_transformers_lacks_have_no_layout():
    assert task_layout(encoder(HeadConfig(labels=LABELS))) is None
    assert task_layout(encoder(HeadConfig(kind="tagger", labels=LABELS, dense=True))) is None
    two = attach_head(encoder(HeadConfig(labels=LABELS, dense=True)), "other", span_head())
    assert task_layout(two) is None
    decoder = Decoder(DecoderConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1))
    assert task_layout(attach_head(decoder, "topic", HeadConfig(labels=LABELS))) is None
