"""Conversations as batches: what is read before what, what is supervised, and what is left out."""

import numpy as np
import pytest

from preceptor.core.errors import DataError
from preceptor.data.example_types import Conversation, Message
from preceptor.nn.losses import IGNORED
from preceptor.objectives.instruct import InstructObjective
from preceptor.tokenizer.chat import encode_conversation
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.tokenizer.training import train

LINES = [f"number {n} of many, {n * n} squared" for n in range(60)]
CHATML = (
    "{% for message in messages %}<|user|>{{ message.role }}\n{{ message.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instruct")
    train(LINES, TokenizerConfig(vocab_size=400), folder).save(folder)
    return folder


def examples(number=12):
    return [Conversation.of(f"what is {n}?", f"it is {n * n}", place=f"a.jsonl, line {n + 1}") for n in range(number)]


def documents_of(objective):
    """What is read and what is supervised in each document of all batches."""
    batch = objective.collate(range(objective.num_rows))
    segments = batch.inputs.segments_BT
    for row in range(len(segments)):
        for segment in range(int(segments[row].max()) + 1):
            here = segments[row] == segment
            yield batch.inputs.tokens_BT[row][here].tolist(), batch.labels_BT[row][here].tolist()


@pytest.mark.parametrize("template", [None, CHATML], ids=["ours", "chatml"])
@pytest.mark.parametrize("prefix_ids", [(), (400, 401, 402)], ids=["bare", "prefixed"])
def test_every_document_is_read_from_its_own_first_token(folder, template, prefix_ids):
    tokenizer = Tokenizer.load(folder)
    tokenizer.chat_template = template
    told = Conversation(
        messages=(
            Message("system", "count"),
            Message("user", "one"),
            Message("assistant", "two"),
            Message("user", "three"),
            Message("assistant", "four", trains=False),
            Message("user", "five"),
            Message("assistant", "six"),
        ),
        group="g",
    )
    given = [*examples(), told]
    objective = InstructObjective(given, tokenizer, 100, prefix_ids=prefix_ids)
    wanted = []
    for number, example in enumerate(given):
        ids, supervised = encode_conversation(tokenizer, example.messages)
        ids, supervised = [*prefix_ids, *ids], [False] * len(prefix_ids) + supervised
        assert objective.document(number) == (ids, supervised)
        labels = [token if taken else IGNORED for token, taken in zip(ids, supervised, strict=True)]
        wanted.append((ids[:-1], labels[1:]))
    assert sorted(documents_of(objective)) == sorted(wanted)
    assert objective.num_supervised_tokens == sum(np.sum(np.array(labels) != IGNORED) for _, labels in wanted)
    ends = sum(labels.count(tokenizer.end_of_text_id) for _, labels in wanted)
    assert ends == len(examples()) + 2


def test_an_example_of_100_000_tokens_is_counted(folder):
    tokenizer = Tokenizer.load(folder)
    giant = Conversation.of("what?", "\u00ff!" * 50_000)
    assert len(encode_conversation(tokenizer, giant.messages)[0]) > 100_000
    objective = InstructObjective([*examples(40), giant], tokenizer, 64)
    assert objective.num_too_long == 1 and objective.num_examples == 40


def test_too_many_that_are_too_long_are_refused_with_the_length_that_is_needed(folder):
    tokenizer = Tokenizer.load(folder)
    long = [Conversation.of("what?", "so " * n, place=f"a.jsonl, line {n}") for n in (100, 90, 80)]
    longest = len(encode_conversation(tokenizer, long[0].messages)[0]) - 1
    with pytest.raises(
        DataError, match=rf"3 of 43 .* 64 tokens, the first at a\.jsonl, line 100; .* {longest}"
    ) as told:
        InstructObjective([*examples(40), *long], tokenizer, 64)
    enough = len(encode_conversation(tokenizer, long[2].messages)[0]) - 1
    assert f"finetuning.context_length to {longest}, or to {enough}" in told.value.remedy
    objective = InstructObjective([*examples(40), *long], tokenizer, enough)
    assert objective.num_too_long == 2
    with pytest.raises(DataError, match="none of the 3 examples"):
        InstructObjective(long, tokenizer, 8)


def test_a_conversation_that_the_template_refuses_is_named(folder):
    tokenizer = Tokenizer.load(folder)
    odd = Conversation(
        messages=(Message("user", "q"), Message("system", "s"), Message("assistant", "a")), group="g", place="b, line 7"
    )
    with pytest.raises(DataError, match=r"b, line 7: .*cannot write this conversation"):
        InstructObjective([*examples(), odd], tokenizer, 64)
