"""What fine-tuning on conversations learns: answers and their ends, whole, and in the very words that are served."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from preceptor.data.example_types import Conversation
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.nn.losses import IGNORED
from preceptor.objectives.causal import CausalObjective
from preceptor.objectives.instruct import InstructObjective
from preceptor.objectives.packing import PADDING_SEGMENT
from preceptor.serve.chat import Responder
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.chat import encode_prompt
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.training import train

CONTEXT = 64
GOLDEN = Path(__file__).with_name("chat_ids.json")
ANSWERS = {"colour?": "blue", "size?": "very large", "shape?": "a ring", "taste?": "sour as lime", "age?": "7"}
TEXTS = [
    *(f"{question} {answer}. It is {answer}, they say, and {answer} it stays." for question, answer in ANSWERS.items()),
    "Ärger, naïve, 日本語 and 🙂 — and £10.\r\n\tTabs",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train(TEXTS * 3, TokenizerConfig(vocab_size=320), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer):
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    return build(config, torch.Generator().manual_seed(0))


def conversations(pairs):
    return [Conversation.of(question, answer) for question, answer in pairs]


def documents(objective):
    """Of each document of a batch of all rows: its ids from the first that is read, and those that are supervised."""
    batch = objective.collate(range(objective.num_rows))
    found = []
    for tokens, labels, segments in zip(batch.tokens_BT, batch.labels_BT, batch.inputs.segments_BT, strict=True):
        for segment in sorted(set(segments.tolist()) - {PADDING_SEGMENT}):
            places = torch.nonzero(segments == segment).flatten()
            said = labels[places]
            found.append(([*tokens[places].tolist(), int(said[-1])], said[said != IGNORED].tolist()))
    assert int((batch.labels_BT != IGNORED).sum()) == sum(len(said) for _, said in found)
    return found


def test_as_many_ends_are_supervised_as_there_are_documents(tokenizer):
    pairs = [(f"{question} {n}", answer * (n % 4)) for n in range(8) for question, answer in ANSWERS.items()]
    objective = InstructObjective(conversations(pairs), tokenizer, CONTEXT)
    assert objective.num_examples == len(pairs) and objective.num_rows < len(pairs)
    labels = objective.collate(range(objective.num_rows)).labels_BT
    assert int((labels == tokenizer.end_of_text_id).sum()) == len(pairs)
    # Padding has the id that ends a text, and is never learned; a document longer than a row ends once.
    lengths = [1, 3, CONTEXT - 1, CONTEXT, CONTEXT + 1, 200, 5]
    ids = [[7] * (length - 1) + [tokenizer.end_of_text_id] for length in lengths]
    stream = TokenStream(
        np.concatenate(ids).astype(np.uint16), np.cumsum([0, *lengths]).astype(np.int64), list("abcdefg"), 100
    )
    causal = CausalObjective(stream, CONTEXT, tokenizer.end_of_text_id)
    batch = causal.collate(range(causal.num_rows))
    assert int((batch.labels_BT == tokenizer.end_of_text_id).sum()) == len(lengths)
    assert int((batch.tokens_BT == tokenizer.end_of_text_id).sum()) > len(lengths)


def test_a_model_that_learned_a_few_answers_stops_by_itself(tokenizer, model):
    learner = build(model.config, torch.Generator().manual_seed(0)).train()
    objective = InstructObjective(conversations(ANSWERS.items()), tokenizer, CONTEXT)
    batch = objective.collate(range(objective.num_rows))
    rule = torch.optim.AdamW(learner.parameters(), lr=1e-2)
    for _ in range(60):
        loss = objective.loss(learner, batch)
        rule.zero_grad()
        (loss.total / loss.tokens).backward()
        rule.step()
    # Far more tokens than any answer has: a model that never stops would fill them.
    sampling = SamplingConfig(temperature=0, max_new_tokens=40)
    responder = Responder(learner.eval(), tokenizer, sampling)
    assert responder.answer_many(list(ANSWERS)) == list(ANSWERS.values())
    assert ["".join(responder.answer(question)) for question in ANSWERS] == list(ANSWERS.values())


def test_what_is_trained_is_what_is_served_and_begins_once(tokenizer, model, monkeypatch):
    pairs = [*ANSWERS.items(), ("Ärger, 日本語? <|endoftext|>", "naïve 🙂\r\n<|user|>")]
    objective = InstructObjective(conversations(pairs), tokenizer, 2 * CONTEXT)
    begin, served = tokenizer.end_of_text_id, []
    plain_step = type(model).step

    def step(self, tokens, *more):
        if tokens.shape[1] > 1:
            served.append(tokens[0].tolist())
        return plain_step(self, tokens, *more)

    monkeypatch.setattr(type(model), "step", step)
    responder = Responder(model.eval(), tokenizer, SamplingConfig(temperature=0, max_new_tokens=1))
    for question, _ in pairs:
        "".join(responder.answer(question))
    trained = {tuple(ids[: len(ids) - len(said)]): ids for ids, said in documents(objective)}
    assert len(trained) == len(pairs) and [*map(tuple, served)] == [
        tuple(encode_prompt(tokenizer, question)) for question, _ in pairs
    ]
    assert set(map(tuple, served)) == set(trained)
    for prompt, ids in trained.items():
        # One in front, one behind: twice the first would be a text that training never saw.
        assert prompt[0] == begin and prompt.count(begin) == 1
        assert ids[-1] == begin and ids.count(begin) == 2
    found = [trained[tuple(prompt)] for prompt in served]
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=4))
@example([("a", " b "), ("", ""), ("\n", "\n\n"), ("<|assistant|>", "<|assistant|>x<|endoftext|>")])
@example([("é", "e\u0301"), ("\ue000", "\ue000\ue001"), ("x\u200b", "\u202etxt"), ("🙂", "👩\u200d👩\u200d👧")])
def test_the_supervised_tokens_of_a_document_are_its_answer_and_nothing_else(tokenizer, pairs):
    objective = InstructObjective(conversations(pairs), tokenizer, 256)
    answers = []
    for _, said in documents(objective):
        assert said[-1] == tokenizer.end_of_text_id and tokenizer.end_of_text_id not in said[:-1]
        answers.append(tokenizer.decode(said[:-1]))
    assert sorted(answers) == sorted(answer for _, answer in pairs)


def test_whatever_is_kept_leaves_something_to_learn_and_what_is_left_out_is_counted(tokenizer):
    fits = [(f"{question} {n}", answer) for n in range(12) for question, answer in ANSWERS.items()]
    long = [("why? " * CONTEXT, "so"), ("so?", "because " * CONTEXT)]
    objective = InstructObjective(conversations([*long[:1], *fits, *long[1:]]), tokenizer, CONTEXT)
    assert objective.num_too_long == 2 and objective.num_examples == len(fits)
    found = documents(objective)
    # Nothing is cut, so that no answer is lost or broken off.
    assert sorted(tokenizer.decode(said[:-1]) for _, said in found) == sorted(answer for _, answer in fits)
    assert all(said and len(ids) - 1 <= CONTEXT for ids, said in found)
