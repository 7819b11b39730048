"""What a fine-tuned model says of texts that nobody has labelled."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from preceptor.adapters.attach import virtual_ids
from preceptor.core.artifact import Store
from preceptor.core.errors import ArtifactError, ConfigError, DataError
from preceptor.data.example_types import AnswerExample, AnyExample, ClassExample, ExampleSet, NumberExample
from preceptor.data.example_types import TaggedExample as Tagged
from preceptor.evaluate.predictions import (
    best_of_windows,
    predict_classes,
    predict_label_sets,
    predict_numbers,
    predict_tags,
)
from preceptor.models.heads import HeadConfig
from preceptor.models.language_model import LanguageModel
from preceptor.objectives.labelled import LabelledObjective
from preceptor.objectives.task import HEAD, Prepared, prepare, word_tokens
from preceptor.recipes.answering import sampling_of
from preceptor.recipes.folder import newest_model
from preceptor.recipes.questions import Asked
from preceptor.recipes.tuned import LearnedTask, load_tuned, task_of
from preceptor.serve.chat import Responder, Writer
from preceptor.serve.sampling import require_beams
from preceptor.tokenizer.tokenizer import Tokenizer

_AT_ONCE = 64
Said = dict[str, Any]
"""What is said of one text, as it stands in JSON."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """A fine-tuned model, its tokenizer and the task that it has learned."""

    model: LanguageModel
    tokenizer: Tokenizer
    learned: LearnedTask
    writer: Responder | None
    """What writes, where the task's answers are text."""

    def predict(self, asked: Iterable[Asked]) -> Iterator[tuple[Asked, Said]]:
        """Each text with what the model says of it, in order; few are read ahead, however many there are.

        Raises:
            ConfigError: a text lacks what the task needs, such as a question.
            DataError: a text cannot be read; what stands before it has been said by then.
        """
        say = _WAYS.get(self.learned.task, _texts)
        for some in _together(asked):
            yield from zip(some, say(self, some), strict=True)

    def read(self, examples: Sequence[AnyExample]) -> Prepared:
        """Examples, whatever their labels, as the model reads them."""
        found = ExampleSet(task=self.learned.task, examples=examples, labels=self.learned.labels)
        head, length = self.head, self.learned.context_length
        return prepare(found, head, self.tokenizer, self.model.config, length, virtual_ids(self.model))

    @property
    def head(self) -> HeadConfig:
        """What the head says."""
        return cast(HeadConfig, self.model.heads[HEAD].config)


def _together(asked: Iterable[Asked]) -> Iterator[list[Asked]]:
    """As many texts at a time as are read at once; where one cannot be read, those before it come first."""
    waiting: list[Asked] = []
    try:
        for each in asked:
            waiting.append(each)
            if len(waiting) == _AT_ONCE:
                yield waiting
                waiting = []
    except DataError:
        if waiting:
            yield waiting
        raise
    if waiting:
        yield waiting


def load_predictor(out: Path, beams: int | None = None) -> Predictor:
    """The newest fine-tuned model in the folder of a run; with ``beams`` it follows so many, whatever the run says.

    Raises:
        ArtifactError: the folder holds none, or a damaged one.
        ConfigError: beams are asked of a model that follows none.
    """
    if not out.is_dir():
        raise ArtifactError(f"{out} does not exist", remedy=f"train a model first: `preceptor run RECIPE --out {out}`")
    base, tuned = newest_model(Store(out / "artifacts"))
    if tuned is None:
        raise ArtifactError(
            f"{out} holds no fine-tuned model, and a base model has no task",
            remedy=f"teach it one: `preceptor finetune RECIPE finetuning.examples=FILE --out {out}`; "
            "or let the base write: `preceptor generate`",
        )
    learned, tokenizer = task_of(tuned.path), Tokenizer.load(base.path)
    model = load_tuned(base.path, tuned.path).eval()
    if learned.task in _WAYS:
        if beams is not None:
            raise ConfigError(
                f"the model has learned the task {learned.task!r}, in which it writes nothing",
                remedy="leave --beams out",
            )
        return Predictor(model, tokenizer, learned, None)
    sampling = sampling_of(out, temperature=0.0)
    sampling = sampling if beams is None else replace(sampling, beams=beams)
    require_beams(sampling, model.config.family)
    writer = Responder(cast(Writer, model), tokenizer, sampling)
    return Predictor(model, tokenizer, learned, writer)


def _classes(predictor: Predictor, asked: Sequence[Asked]) -> Iterator[Said]:
    labels = predictor.head.labels
    # Any label does: no loss is taken.
    examples = [ClassExample(text=e.text, second=e.second, labels=labels[:1], group="") for e in asked]
    objective = cast(LabelledObjective, predictor.read(examples).objective)
    if predictor.learned.multi_label:
        sets, probabilities = predict_label_sets(predictor.model, objective)
        for found, row in zip(sets, probabilities.tolist(), strict=True):
            yield {"labels": list(found or ()), "probabilities": dict(zip(labels, row, strict=True))}
        return
    said, probabilities = predict_classes(predictor.model, objective)
    for label, row in zip(said, probabilities.tolist(), strict=True):
        yield {"label": label, "probability": max(row), "probabilities": dict(zip(labels, row, strict=True))}


def _numbers(predictor: Predictor, asked: Sequence[Asked]) -> Iterator[Said]:
    names = predictor.head.labels
    examples = [NumberExample(text=e.text, second=e.second, targets=(0.0,) * len(names), group="") for e in asked]
    objective = cast(LabelledObjective, predictor.read(examples).objective)
    for row in predict_numbers(predictor.model, objective).tolist():
        yield {"number": row[0]} if len(row) == 1 else {"numbers": dict(zip(names, row, strict=True))}


def _tags(predictor: Predictor, asked: Sequence[Asked]) -> Iterator[Said]:
    label = predictor.head.labels[:1]
    rows = [each.words or tuple(each.text.split()) for each in asked]
    prepared = predictor.read([Tagged(words=words, tags=label * len(words), group="") for words in rows])
    found = predict_tags(predictor.model, cast(LabelledObjective, prepared.objective))
    said = dict(zip(prepared.owners, found, strict=True))
    for number, words in enumerate(rows):
        tags = iter(said.get(number) or ())
        # A word without tokens, or behind the end of the context, has no tag.
        told = [next(tags, None) if tokens else None for tokens in word_tokens(predictor.tokenizer, words)]
        yield {"words": list(words), "tags": told}


def _answers(predictor: Predictor, asked: Sequence[Asked]) -> Iterator[Said]:
    if not all(each.question for each in asked):
        raise ConfigError(
            "the model has learned to find answers in texts, and there is no question",
            remedy='ask one with --question "...", or name a file with the columns question and context',
        )
    examples = [AnswerExample(question=e.question, context=e.text, answers=(), group="") for e in asked]
    prepared = predictor.read(examples)
    objective = cast(LabelledObjective, prepared.objective)
    spans = best_of_windows(predictor.model, objective, prepared.owners, prepared.offsets, len(examples))
    for span, each in zip(spans, asked, strict=True):
        if not span:
            yield {"answer": "", "start": None}
            continue
        places = predictor.tokenizer.encode_with_places(each.text)[1]
        start, end = places[span[0]][0], places[span[1]][1]
        answer = each.text[start:end]
        yield {"answer": answer.strip(), "start": start + len(answer) - len(answer.lstrip())}


def _texts(predictor: Predictor, asked: Sequence[Asked]) -> Iterator[Said]:
    assert predictor.writer is not None
    for text in predictor.writer.answer_many([each.messages or each.text for each in asked]):
        yield {"text": text}


_WAYS: Mapping[str, Callable[[Predictor, Sequence[Asked]], Iterator[Said]]] = {
    "classify": _classes,
    "regress": _numbers,
    "tag": _tags,
    "answer": _answers,
}
"""How what a head says is told; all other models write."""
