"""The score of an objective and its chance level, against the same counted by hand."""

import math

import numpy as np
import pytest
import torch

from preceptor.evaluate.objective_score import samples, score_objective
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.interchange import architecture_of
from preceptor.nn.losses import IGNORED
from preceptor.objectives.choice import objective_for
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.training import train

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    tokenizer = train(
        [" ".join(WORDS)] * 8, TokenizerConfig(vocab_size=280, mask_token=True), tmp_path_factory.mktemp("tokenizer")
    )
    draw = np.random.default_rng(1)
    ids = [[*tokenizer.encode(" ".join(draw.choice(WORDS, 12))), tokenizer.end_of_text_id] for _ in range(12)]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    flat = np.array([token for each in ids for token in each], np.uint16)
    stream = TokenStream(flat, offsets, [str(number) for number in range(12)], 100)
    config = EncoderConfig(
        vocab_size=280, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    )
    model = architecture_of(config).family.build(config, torch.Generator().manual_seed(0))
    objective = objective_for(ObjectiveConfig(kind="masked"), stream, 32, tokenizer, 3, config)
    return model, objective, stream, tokenizer


def test_scores_and_chance_are_those_counted_by_hand(parts):
    model, objective, stream, tokenizer = parts
    rows = range(objective.num_rows)
    score = score_objective(model, objective, rows, stream, tokenizer.vocab_size)
    batch = objective.collate(rows)
    said = batch.labels_BT != IGNORED
    labels = batch.labels_BT[said]
    log_probabilities = model(batch.inputs)[said].log_softmax(-1)
    loss = -log_probabilities.gather(1, labels.unsqueeze(1)).mean().item()
    assert score["perplexity"]["value"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert score["accuracy"]["value"] == pytest.approx((log_probabilities.argmax(-1) == labels).float().mean().item())
    assert score["tokens"] == len(labels) and score["rows"] == objective.num_rows
    # The chance level counts each token of the training text, and one more of each for those that never come.
    counts = np.array([(stream.tokens == token).sum() + 1.0 for token in range(tokenizer.vocab_size)])
    shares = counts / counts.sum()
    expected = math.exp(-np.log(shares[labels.numpy()]).mean())
    assert score["chance"]["perplexity"] == pytest.approx(expected, rel=1e-6)
    assert score["chance"]["accuracy"] == pytest.approx((labels == int(counts.argmax())).float().mean().item())


def test_samples_show_masks_by_name_and_text_as_text(parts):
    model, objective, _, tokenizer = parts
    shown = samples(model, objective, range(objective.num_rows), tokenizer)
    assert shown and any("<|mask|>" in each["text"] for each in shown)
    assert all(each["expected"] and each["said"] for each in shown)
