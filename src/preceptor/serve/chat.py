"""A conversation at the terminal: one question at a time, the answer as it is made."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from preceptor.adapters.attach import virtual_ids
from preceptor.core.errors import OutputError, output_errors
from preceptor.data.example_types import Message
from preceptor.models.encoder_decoder import EncoderDecoder
from preceptor.serve.generate import OneSided, generate, generate_many
from preceptor.serve.sampling import SamplingConfig
from preceptor.serve.translate import source_ids, stream_target, target_ids
from preceptor.tokenizer.chat import encode_prompt
from preceptor.tokenizer.tokenizer import Tokenizer

COMMANDS = """/help         this list
/clear        forget the questions and answers so far
/save FILE    write the questions and answers so far as JSON lines
/quit         leave (or Ctrl-D)
Ctrl-C stops an answer; at the prompt, or a second time, it leaves."""


Writer = OneSided | EncoderDecoder
"""Models that write text."""


@dataclass(frozen=True)
class Responder:
    """A model with its tokenizer and its way to draw: what answers questions and continues texts.

    An encoder-decoder knows no template: what is asked is its source, and the answer its target.
    """

    model: Writer
    tokenizer: Tokenizer
    sampling: SamplingConfig

    def answer(self, question: str) -> Iterator[str]:
        """The answer to a question in pieces of whole characters. Every question stands alone, as in training."""
        if isinstance(self.model, EncoderDecoder):
            return self._shown(stream_target(self.model, self._source(question), self.sampling, self._end))
        return self._stream(self._asked(question))

    def continue_text(self, text: str) -> Iterator[str]:
        """What follows a text, in pieces of whole characters; of an encoder-decoder, the target it writes for it."""
        if isinstance(self.model, EncoderDecoder):
            return self.answer(text)
        return self._stream([*virtual_ids(self.model), self._end, *self.tokenizer.encode(text)])

    def answer_many(self, questions: Sequence[str | Sequence[Message]]) -> list[str]:
        """The answers to many questions, or to conversations so far."""
        if isinstance(self.model, EncoderDecoder):
            sources = [self._source(question) for question in questions]
            replies = target_ids(self.model, sources, self.sampling, self._end)
        else:
            prompts = [self._asked(question) for question in questions]
            replies = generate_many(self.model, prompts, self.sampling, self._end)
        return [self.tokenizer.decode(reply).strip() for reply in replies]

    def answer_many_in_plain_text(self, questions: Sequence[str | Sequence[Message]]) -> list[str]:
        """The answers of a model that knows no chat template: what it writes on the line behind "Answer:"."""
        if isinstance(self.model, EncoderDecoder):
            return self.answer_many(questions)
        tokenizer = self.tokenizer
        texts = [f"Question: {_plain(question)}\nAnswer:" for question in questions]
        prompts = [[*virtual_ids(self.model), tokenizer.end_of_text_id, *tokenizer.encode(text)] for text in texts]
        replies = generate_many(self.model, prompts, self.sampling, tokenizer.end_of_text_id)
        return [tokenizer.decode(reply).strip().split("\n")[0] for reply in replies]

    @property
    def _end(self) -> int:
        return self.tokenizer.end_of_text_id

    def _source(self, asked: str | Sequence[Message]) -> list[int]:
        # A prefix stands in front of the target, and takes no place from the source.
        longest = self.model.config.max_position_embeddings
        return source_ids(self.tokenizer, _plain(asked), longest, virtual_ids(self.model))[0]

    def _asked(self, question: str | Sequence[Message]) -> list[int]:
        return [*virtual_ids(self.model), *encode_prompt(self.tokenizer, question)]

    def _stream(self, prompt: Sequence[int]) -> Iterator[str]:
        assert not isinstance(self.model, EncoderDecoder)
        return self._shown(generate(self.model, prompt, self.sampling, self._end))

    def _shown(self, tokens: Iterable[int]) -> Iterator[str]:
        text = self.tokenizer.decode_stream()
        for token in tokens:
            if piece := text.push(token):
                yield piece
        if rest := text.finish():
            yield rest


def _plain(asked: str | Sequence[Message]) -> str:
    """What is asked without a template: as an encoder-decoder learns conversations."""
    return asked if isinstance(asked, str) else "\n".join(message.content for message in asked)


def chat(responder: Responder, lines: Iterable[str], output: TextIO, prompt: Callable[[], None]) -> None:
    """Answer each line until they end or someone leaves; ``prompt`` is called before each line is read."""
    told: list[dict[str, str]] = []
    prompt()
    for line in lines:
        question = line.strip()
        if question in ("/quit", "/exit"):
            return
        if question == "/clear":
            told.clear()
        elif question.startswith("/save"):
            output.write(_save(told, question.removeprefix("/save").strip()) + "\n")
        elif question.startswith("/"):
            output.write(COMMANDS + "\n")
        elif question:
            told.append({"question": question, "answer": _show(responder.answer(question), output)})
        prompt()


def _show(pieces: Iterator[str], output: TextIO) -> str:
    """The whole answer, which was written piece by piece; Ctrl-C ends it early."""
    shown = []
    try:
        for piece in pieces:
            shown.append(piece)
            output.write(piece)
            output.flush()
    except KeyboardInterrupt:
        output.write(" [stopped]")
    output.write("\n")
    output.flush()
    return "".join(shown)


def _save(told: list[dict[str, str]], name: str) -> str:
    if not name:
        return "name a file: /save FILE"
    path = Path(name).expanduser()
    if path.exists():
        return f"{path} is there already; name another file"
    try:
        with output_errors(path):
            path.write_text("".join(json.dumps(turn, ensure_ascii=False) + "\n" for turn in told), encoding="utf-8")
    except OutputError as error:
        return str(error)
    return f"{len(told)} questions and answers are in {path}"


def terminal_lines(source: TextIO | None = None) -> Iterator[str]:
    """The lines that are typed or piped in; bytes that are no UTF-8 become replacement characters."""
    source = sys.stdin if source is None else source
    if isinstance(source, TextIOWrapper):
        source.reconfigure(encoding="utf-8", errors="replace")
    while line := source.readline():
        yield line
