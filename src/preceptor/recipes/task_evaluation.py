"""How well a fine-tuned model does its task: what it says of held-out examples, scored beside what costs nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from preceptor.adapters.attach import virtual_ids
from preceptor.core.interrupt import Stop
from preceptor.core.seeds import derive
from preceptor.data.example_types import (
    AnswerExample,
    ClassExample,
    ExampleSet,
    NumberExample,
    PairExample,
    PreferenceExample,
    TaggedExample,
)
from preceptor.evaluate import verdict
from preceptor.evaluate.classification import classification_scores, label_set_scores
from preceptor.evaluate.extraction import extraction_baselines, extraction_scores
from preceptor.evaluate.judged import Judged
from preceptor.evaluate.predictions import (
    best_of_windows,
    predict_classes,
    predict_label_sets,
    predict_numbers,
    predict_tags,
    span_text,
)
from preceptor.evaluate.preference import preference_scores
from preceptor.evaluate.regression import number_scores
from preceptor.evaluate.tagging import commonest_tags, tagging_scores
from preceptor.evaluate.texts import summary_scores, translation_scores
from preceptor.models.heads import HeadConfig
from preceptor.models.language_model import LanguageModel
from preceptor.objectives.labelled import LabelledObjective
from preceptor.objectives.preference import gains, preference_objective
from preceptor.objectives.preference_config import PreferenceConfig
from preceptor.objectives.task import HEAD, Prepared, prepare, word_tokens
from preceptor.recipes.tuned import load_base, load_tuned, load_writer
from preceptor.serve.chat import Responder, Writer
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.tokenizer import Tokenizer

_NUM_SAMPLES = 12


@dataclass(frozen=True, slots=True)
class Asked:
    """A fine-tuned model, the examples it is asked, and those it has learned from."""

    base: Path
    tuned: Path
    tokenizer: Tokenizer
    train: ExampleSet
    held_out: ExampleSet
    context_length: int
    writing: SamplingConfig
    """How a model that writes does so."""
    num_questions: int
    """How many examples a model that writes is asked; one that has a head is asked all."""
    seed: int


@dataclass(frozen=True, slots=True)
class _Found:
    """Scores, everything else that is to be told, and what was said of some examples."""

    judged: Sequence[Judged]
    details: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]]
    count: int


def evaluate_task(asked: Asked, stop: Stop) -> dict[str, Any]:
    """The scores of a task with their baselines, what they mean in words, and samples."""
    model = load_tuned(asked.base, asked.tuned).eval()
    stop.check()
    found = _WAYS[asked.held_out.task](asked, model)
    return {
        "task": asked.held_out.task,
        "examples": found.count,
        "scores": [each.facts() for each in found.judged],
        "verdicts": [verdict.on_judged(each) for each in found.judged[:1]],
        "details": dict(found.details),
        "samples": list(found.samples),
    }


def _read(asked: Asked, model: LanguageModel) -> Prepared:
    head = cast(HeadConfig, model.heads[HEAD].config)
    return prepare(asked.held_out, head, asked.tokenizer, model.config, asked.context_length, virtual_ids(model))


def _spread(prepared: Prepared, said: Sequence[Any], count: int) -> list[Any]:
    """What was said of each example; None of those of which nothing was."""
    found: list[Any] = [None] * count
    for owner, each in zip(prepared.owners, said, strict=True):
        found[owner] = each
    return found


def _classes(asked: Asked, model: LanguageModel) -> _Found:
    examples = cast(Sequence[ClassExample], asked.held_out.examples)
    prepared = _read(asked, model)
    objective = cast(LabelledObjective, prepared.objective)
    labels = cast(HeadConfig, model.heads[HEAD].config).labels
    if asked.train.multi_label:
        said, probabilities = predict_label_sets(model, objective)
        told = _spread(prepared, said, len(examples))
        scores = label_set_scores([each.labels for each in examples], told, labels, asked.seed)
        shown = [", ".join(each or ("none",)) if each is not None else "nothing" for each in told]
    else:
        one, probabilities = predict_classes(model, objective)
        told = _spread(prepared, one, len(examples))
        rows = np.full((len(examples), len(labels)), np.nan)
        rows[list(prepared.owners)] = probabilities
        wanted = [each.labels[0] for each in examples]
        scores = classification_scores(wanted, told, labels, asked.seed, probabilities=rows)
        shown = [each if each is not None else "nothing" for each in told]
    samples = _samples([(_both(e.text, e.second), ", ".join(e.labels) or "none") for e in examples], shown)
    return _Found(scores.judged, scores.facts(), samples, len(examples))


def _numbers(asked: Asked, model: LanguageModel) -> _Found:
    examples = cast(Sequence[NumberExample], asked.held_out.examples)
    prepared = _read(asked, model)
    labels = cast(HeadConfig, model.heads[HEAD].config).labels
    said = np.full((len(examples), len(labels)), np.nan)
    said[list(prepared.owners)] = predict_numbers(model, cast(LabelledObjective, prepared.objective))
    means = np.mean([cast(NumberExample, each).targets for each in asked.train.examples], axis=0).tolist()
    scores = number_scores([each.targets for each in examples], said, labels, asked.seed, means=means)
    judged = [each for found in scores.values() for each in found.judged]
    shown = [", ".join(f"{number:.4g}" for number in row) for row in said]
    wanted = [(_both(e.text, e.second), ", ".join(f"{number:.4g}" for number in e.targets)) for e in examples]
    details = {name: found.facts() for name, found in scores.items()}
    return _Found(judged, details, _samples(wanted, shown), len(examples))


def _tags(asked: Asked, model: LanguageModel) -> _Found:
    examples = cast(Sequence[TaggedExample], asked.held_out.examples)
    prepared = _read(asked, model)
    tags = _spread(prepared, predict_tags(model, cast(LabelledObjective, prepared.objective)), len(examples))
    learned = cast(Sequence[TaggedExample], asked.train.examples)
    usual = commonest_tags([e.words for e in learned], [e.tags for e in learned], [e.words for e in examples])
    told = [
        None if said is None else _filled(said, common, word_tokens(asked.tokenizer, each.words))
        for said, common, each in zip(tags, usual, examples, strict=True)
    ]
    references = [each.tags for each in examples]
    scores = tagging_scores(references, told, asked.seed, baselines={"the word's commonest tag": usual})
    wanted = [(" ".join(each.words), " ".join(each.tags)) for each in examples]
    return _Found(scores.judged, scores.facts(), _samples(wanted, [" ".join(e or ()) for e in told]), len(examples))


def _filled(said: Sequence[str], common: Sequence[str], words: Sequence[Sequence[int]]) -> list[str]:
    """A tag for each word; the word's commonest of training for one without tokens or beyond the context."""
    tags = iter(said)
    return [next(tags, usual) if word else usual for word, usual in zip(words, common, strict=True)]


def _answers(asked: Asked, model: LanguageModel) -> _Found:
    examples = cast(Sequence[AnswerExample], asked.held_out.examples)
    prepared = _read(asked, model)
    spans = best_of_windows(
        model, cast(LabelledObjective, prepared.objective), prepared.owners, prepared.offsets, len(examples)
    )
    told = [
        None if span is None else span_text(span, each.context, asked.tokenizer)
        for span, each in zip(spans, examples, strict=True)
    ]
    references = [[text for text, _ in each.answers] for each in examples]
    baselines = extraction_baselines([each.context for each in examples], references)
    scores = extraction_scores(references, told, asked.seed, baselines=baselines)
    wanted = [(each.question, " | ".join(text for text, _ in each.answers) or "no answer") for each in examples]
    shown = [each or "no answer" for each in told]
    return _Found(scores.judged, scores.facts(), _samples(wanted, shown), len(examples))


def _texts(asked: Asked, model: LanguageModel) -> _Found:
    every = cast(Sequence[PairExample], asked.held_out.examples)
    examples = sorted(every, key=lambda each: derive(asked.seed, "asked", each.source))[: asked.num_questions]
    sources, references = [each.source for each in examples], [[each.target] for each in examples]
    written = Responder(cast(Writer, model), asked.tokenizer, asked.writing).answer_many(sources)
    before = Responder(load_writer(asked.base), asked.tokenizer, asked.writing).answer_many(sources)
    score = translation_scores if asked.held_out.task == "translate" else summary_scores
    scores = score(references, written, sources, asked.seed)
    others = {each.name: each.score for each in score(references, before, sources, asked.seed).judged}
    judged = [
        Judged(each.name, each.score, {"the base model before": others[each.name], **each.baselines})
        for each in scores.judged
    ]
    samples = [
        {"input": each.source, "before": first, "said": said, "expected": each.target}
        for each, first, said in zip(examples, before, written, strict=True)
    ]
    return _Found(judged, scores.facts(), samples[:_NUM_SAMPLES], len(examples))


def _preferences(asked: Asked, model: LanguageModel) -> _Found:
    """How often the preferred answer has gained more over the base than the other one."""
    examples = cast(Sequence[PreferenceExample], asked.held_out.examples)
    prepared = preference_objective(
        examples,
        asked.tokenizer,
        asked.context_length,
        PreferenceConfig(),
        load_base(asked.base, asked.tuned),
        prefix_ids=virtual_ids(model),
    )
    gained = gains(prepared, model)
    scores = preference_scores(gained[:, 0], gained[:, 1], asked.seed)
    samples = [
        {"input": each.messages[-1].content, "said": "the preferred" if first > second else "the other"}
        | {"expected": "the preferred"}
        for each, (first, second) in zip(prepared.kept, gained, strict=True)
    ]
    return _Found(scores.judged, scores.facts(), samples[:_NUM_SAMPLES], len(examples))


def _both(text: str, second: str | None) -> str:
    return text if second is None else f"{text} | {second}"


def _samples(wanted: Sequence[tuple[str, str]], said: Sequence[str]) -> list[dict[str, str]]:
    rows = zip(wanted, said, strict=True)
    return [{"input": asked, "said": each, "expected": right} for (asked, right), each in rows][:_NUM_SAMPLES]


_WAYS: Mapping[str, Callable[[Asked, LanguageModel], _Found]] = {
    "classify": _classes,
    "regress": _numbers,
    "tag": _tags,
    "answer": _answers,
    "translate": _texts,
    "summarise": _texts,
    "prefer": _preferences,
}
"""How each task is judged; what an assistant answers is judged by the evaluation itself."""
