"""A question and its answer as ids: the one template that trains, evaluates and serves."""

from preceptor.tokenizer.tokenizer import Tokenizer


def encode_prompt(tokenizer: Tokenizer, question: str) -> list[int]:
    """The ids after which the answer comes: end of text, user, question, assistant."""
    return [tokenizer.end_of_text_id, tokenizer.user_id, *tokenizer.encode(question), tokenizer.assistant_id]


def encode_example(tokenizer: Tokenizer, question: str, answer: str) -> tuple[list[int], list[bool]]:
    """The ids of an example, and which of them are supervised: the answer and the end of text that closes it."""
    prompt = encode_prompt(tokenizer, question)
    reply = [*tokenizer.encode(answer), tokenizer.end_of_text_id]
    return prompt + reply, [False] * len(prompt) + [True] * len(reply)
