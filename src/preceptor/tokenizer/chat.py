"""A conversation as ids: the one template that trains, evaluates and serves, rendered in Jinja's sandbox."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from preceptor.core.errors import DataError
from preceptor.data.example_types import Message
from preceptor.tokenizer.config import ASSISTANT, USER
from preceptor.tokenizer.tokenizer import Tokenizer

DEFAULT_TEMPLATE = (
    "{{ eos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and loop.first %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('this template knows user, assistant, and system at the beginning') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_PRIVATE = range(0xE000, 0xF8FF)


def encode_prompt(tokenizer: Tokenizer, asked: str | Sequence[Message]) -> list[int]:
    """The ids after which the answer comes to a question, or to a conversation so far.

    With our template these are end of text, user, question, assistant.
    """
    messages = [Message("user", asked)] if isinstance(asked, str) else asked
    return encode_chat(tokenizer, _told(messages), add_generation_prompt=True)


def encode_example(tokenizer: Tokenizer, question: str, answer: str) -> tuple[list[int], list[bool]]:
    """The ids of an example, and which of them are supervised: the answer and the token that closes it.

    Raises:
        DataError: the chat template does not write the conversation as the prompt followed by the answer.
    """
    return encode_conversation(tokenizer, [Message("user", question), Message("assistant", answer)])


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """The ids of a conversation, and which of them are supervised.

    These are what the assistant says where it ``trains``, each time with the token that closes it. Before each answer
    stand exactly the ids that ask a model for it.

    Raises:
        DataError: the chat template does not write the conversation as each prompt followed by its answer, or closes
            an answer with no special token.
    """
    ids = encode_chat(tokenizer, _told(messages), add_generation_prompt=False)
    supervised = [False] * len(ids)
    for place, message in enumerate(messages):
        if message.role != "assistant" or not message.trains:
            continue
        prompt = encode_prompt(tokenizer, messages[:place])
        is_last = place + 1 == len(messages)
        so_far = ids if is_last else encode_chat(tokenizer, _told(messages[: place + 1]), add_generation_prompt=False)
        if so_far[: len(prompt)] != prompt or ids[: len(so_far)] != so_far:
            raise DataError(
                "the tokenizer's chat template does not write a conversation as its prompt followed by the answer",
                remedy="import the tokenizer with another chat template, or remove chat_template to use ours",
            )
        end = _closing(tokenizer, so_far, len(prompt)) + 1
        supervised[len(prompt) : end] = [True] * (end - len(prompt))
    return ids, supervised


def _told(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": each.role, "content": each.content} for each in messages]


def _closing(tokenizer: Tokenizer, ids: Sequence[int], start: int) -> int:
    """The place of the special token that closes an answer which begins at ``start``.

    Behind it a template may write more, such as a new line; no model has to learn that.
    """
    closing = {tokenizer.special_id(token) for token in tokenizer.special_tokens} - {tokenizer.unknown_id}
    place = len(ids)
    # Special tokens have no bytes, and white space may belong to the template.
    while place > start and (ids[place - 1] in closing or not tokenizer.token_bytes(ids[place - 1]).strip()):
        place -= 1
    for here in range(place, len(ids)):
        if ids[here] in closing:
            return here
    raise DataError(
        "the tokenizer's chat template closes an answer with no special token, so that a model could never end one",
        remedy="write eos_token behind the answer in chat_template, or remove chat_template to use ours",
    )


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool
) -> list[int]:
    """The ids of a conversation. Only the template writes special tokens: in a message their words are words.

    Raises:
        DataError: the template refuses the conversation, or what it does is not allowed.
    """
    specials = tokenizer.special_tokens
    mark = _unused_character(messages)
    told = [
        {key: _break_up(text, specials, mark) if key != "role" else text for key, text in message.items()}
        for message in messages
    ]
    text = render(tokenizer, told, add_generation_prompt=add_generation_prompt)
    ids: list[int] = []
    if not specials:
        return tokenizer.encode(text.replace(mark, ""))
    longest_first = sorted(specials, key=len, reverse=True)
    for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text):
        if part in specials:
            ids.append(tokenizer.special_id(part))
        elif part:
            ids += tokenizer.encode(part.replace(mark, ""))
    return ids


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
    """The text of a conversation by the tokenizer's template, or by ours where it has none.

    Raises:
        DataError: the template refuses the conversation, or what it does is not allowed; or there is none, and the
            tokenizer lacks the tokens of ours.
    """
    source = tokenizer.chat_template
    if source is None and not {USER, ASSISTANT} <= set(tokenizer.special_tokens):
        raise DataError(
            f"the tokenizer has no chat template, and lacks {USER} or {ASSISTANT}, which ours writes",
            remedy="use the tokenizer of a model that writes, or one that `preceptor tokenizer` has trained",
        )
    try:
        return _compiled(DEFAULT_TEMPLATE if source is None else source).render(
            messages=list(messages),
            add_generation_prompt=add_generation_prompt,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.end_of_text,
            tools=None,
            documents=None,
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"the tokenizer's chat template cannot write this conversation: {error}",
            remedy="check the roles and their order, or the chat_template in tokenizer_config.json",
        ) from error


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    # A template comes with a file of others. In the sandbox it can reach no attribute that leads out of its values.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = _to_json
    return environment.from_string(source)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _unused_character(messages: Sequence[Mapping[str, str]]) -> str:
    """A character of private use that no message holds."""
    used = set("".join(text for message in messages for text in message.values()))
    return next(chr(code) for code in _PRIVATE if chr(code) not in used)


def _break_up(text: str, specials: Sequence[str], mark: str) -> str:
    """The text with a mark inside of all words of special tokens."""
    for special in specials:
        if special in text:
            text = text.replace(special, special[:1] + mark + special[1:])
    return text
