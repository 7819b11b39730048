"""Conversations as ids: what is supervised in them, and that training and serving write the same."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.core.errors import DataError
from preceptor.data.example_types import Message
from preceptor.tokenizer.chat import encode_conversation, encode_example, encode_prompt
from preceptor.tokenizer.config import ASSISTANT, USER, TokenizerConfig
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.tokenizer.training import train

LINES = [f"number {n} of many, {n * n} squared; who sat on the mat?" for n in range(60)]
CHATML = (
    "{% for message in messages %}<|user|>{{ message.role }}\n{{ message.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }} {{ eos_token }}{{ bos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    train(LINES, TokenizerConfig(vocab_size=400), folder).save(folder)
    return folder


@pytest.fixture(scope="module", params=["ours", "chatml"])
def tokenizer(folder, request):
    tokenizer = Tokenizer.load(folder)
    tokenizer.chat_template = {"ours": None, "chatml": CHATML}[request.param]
    return tokenizer


said = st.text(min_size=1, max_size=30)
conversation = st.tuples(
    st.one_of(st.none(), said), st.lists(st.tuples(said, said, st.booleans()), min_size=1, max_size=4)
)


def messages_of(system, turns):
    told = [] if system is None else [Message("system", system)]
    for asked, answer, trains in turns:
        told += [Message("user", asked), Message("assistant", answer, trains)]
    return told


def runs(ids, supervised):
    """The runs of supervised ids."""
    found, before = [], False
    for token, taken in zip(ids, supervised, strict=True):
        if taken:
            found = found if before else [*found, []]
            found[-1].append(token)
        before = taken
    return found


@given(conversation)
@settings(deadline=None, max_examples=150)
def test_exactly_the_answers_and_what_closes_each_are_supervised(tokenizer, drawn):
    messages = messages_of(*drawn)
    ids, supervised = encode_conversation(tokenizer, messages)
    wanted = [each.content for each in messages if each.role == "assistant" and each.trains]
    found = runs(ids, supervised)
    assert [tokenizer.decode(run) for run in found] == wanted
    assert all(run.count(tokenizer.end_of_text_id) == 1 and run[-1] == tokenizer.end_of_text_id for run in found)
    assert ids == encode_conversation(tokenizer, [Message(each.role, each.content) for each in messages])[0]
    for place, message in enumerate(messages):
        if message.role == "assistant":
            prompt = encode_prompt(tokenizer, messages[:place])
            assert ids[: len(prompt)] == prompt
            assert not message.trains or supervised[len(prompt)]


def test_our_template_writes_what_it_always_wrote_for_a_question_and_its_answer(folder):
    tokenizer = Tokenizer.load(folder)
    end = tokenizer.end_of_text_id
    asked, answer = tokenizer.encode("who?"), tokenizer.encode("nobody")
    wanted = [end, tokenizer.special_id(USER), *asked, tokenizer.special_id(ASSISTANT), *answer, end]
    ids, supervised = encode_example(tokenizer, "who?", "nobody")
    assert ids == wanted and supervised == [False] * (len(asked) + 3) + [True] * (len(answer) + 1)
    told = [Message("system", "be short"), Message("user", "who?"), Message("assistant", "nobody")]
    ids, _ = encode_conversation(tokenizer, told)
    assert ids == [end, *tokenizer.encode("be short"), *wanted[1:]]
    with pytest.raises(DataError, match="system at the beginning"):
        encode_conversation(tokenizer, [*told, Message("system", "be long")])


def test_a_tokenizer_without_a_template_and_without_the_tokens_of_ours_cannot_chat(folder):
    table = json.loads(Tokenizer.load(folder).definition)
    table["added_tokens"] = [each for each in table["added_tokens"] if each["content"] != USER]
    table["model"]["vocab"]["other"] = table["model"]["vocab"].pop(USER)
    tokenizer = Tokenizer(json.dumps(table))
    with pytest.raises(DataError, match=r"no chat template, and lacks <\|user\|>") as error:
        encode_prompt(tokenizer, "who?")
    assert "a model that writes" in error.value.remedy


def test_what_a_template_writes_behind_the_closing_token_is_not_learned(folder):
    tokenizer = Tokenizer.load(folder)
    tokenizer.chat_template = CHATML
    ids, supervised = encode_example(tokenizer, "who?", "nobody\n")
    assert ids[-1] == tokenizer.encode("\n")[0] and not supervised[-1] and supervised[-2]
    assert tokenizer.decode(runs(ids, supervised)[0]) == "nobody\n"


def test_words_of_special_tokens_in_an_answer_close_nothing(tokenizer):
    messages = [Message("user", "q"), Message("assistant", "a<|endoftext|>b<|user|>"), Message("user", "<|assistant|>")]
    ids, supervised = encode_conversation(tokenizer, [*messages, Message("assistant", "c")])
    assert [tokenizer.decode(run) for run in runs(ids, supervised)] == ["a<|endoftext|>b<|user|>", "c"]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ bos_token }}{{ messages | length }}{{ messages[0].content }}{{ eos_token }}", "its prompt followed by"),
        ("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ messages | length }}", "its prompt"),
        ("{{ bos_token }}{% for m in messages %}{{ m.content }}\n{% endfor %}", "no special token"),
    ],
)
def test_templates_that_nothing_can_be_learned_from_are_refused(folder, template, words):
    tokenizer = Tokenizer.load(folder)
    tokenizer.chat_template = template
    turns = [Message("user", "q"), Message("assistant", "a"), Message("user", "r"), Message("assistant", "b")]
    with pytest.raises(DataError, match=words):
        encode_conversation(tokenizer, turns)


def test_a_template_that_closes_and_opens_again_supervises_one_token_for_each_answer(folder):
    tokenizer = Tokenizer.load(folder)
    tokenizer.chat_template = LLAMA_2
    turns = [Message("user", "q"), Message("assistant", "a"), Message("user", "r"), Message("assistant", "b")]
    ids, supervised = encode_conversation(tokenizer, turns)
    assert [tokenizer.decode(run) for run in runs(ids, supervised)] == [" a ", " b "]
    assert all(run[-1] == tokenizer.end_of_text_id and run.count(run[-1]) == 1 for run in runs(ids, supervised))
