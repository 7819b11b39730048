"""The evaluation stage: all scores of a model, written as one table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from preceptor.core.artifact import Draft
from preceptor.core.errors import output_errors
from preceptor.core.interrupt import Stop
from preceptor.core.seeds import derive
from preceptor.data.corpus import Corpus
from preceptor.data.example_types import ExampleSet
from preceptor.data.examples import conversations
from preceptor.evaluate import verdict
from preceptor.evaluate.memorisation import CONTINUATION_TOKENS, loss_gap, recite
from preceptor.evaluate.metrics import accuracy, bits_per_byte, perplexity
from preceptor.evaluate.objective_score import samples, score_objective
from preceptor.evaluate.perplexity import DocumentLosses, document_losses, sample_documents
from preceptor.evaluate.rulers import InterpolatedNgram, xz_bits_per_byte
from preceptor.evaluate.tasks import answer_questions, improvement
from preceptor.models.decoder import Decoder
from preceptor.models.interchange import load_decoder, load_model
from preceptor.objectives.choice import objective_for
from preceptor.recipes.run import Run
from preceptor.recipes.task_evaluation import Asked, evaluate_task
from preceptor.recipes.tuned import load_writer
from preceptor.serve.chat import Responder
from preceptor.serve.generate import generate_many
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer

EVALUATION_FILE = "evaluation.json"
_GREEDY = SamplingConfig(temperature=0.0)
_NUM_SAMPLES = 3
_CONTINUED_CHARACTERS = 40


def evaluate(
    *,
    run: Run,
    parents: Mapping[str, Path],
    examples: tuple[ExampleSet, ExampleSet] | None,
    draft: Draft,
    stop: Stop,
) -> None:
    """Write evaluation.json into the draft: language modelling, rulers, memorisation, the task, samples.

    ``examples`` are those that a fine-tuned model has learned from, and those held out.
    """
    table = _of_documents(run, parents, stop) if "tokens" in parents else {}
    stop.check()
    if examples is not None:
        table |= _of_task(run, parents, *examples, stop)
    with output_errors(draft.path):
        text = json.dumps(table, indent=2, ensure_ascii=False)
        (draft.path / EVALUATION_FILE).write_text(text + "\n", encoding="utf-8")
    if "language_model" in table:
        draft.facts |= {"bits_per_byte": table["language_model"]["bits_per_byte"]["value"]}
    if "task" in table:
        first = table["task"]["scores"][0]
        draft.facts |= {"task": table["task"]["task"], first["name"]: first["value"]}


def _of_task(
    run: Run, parents: Mapping[str, Path], train: ExampleSet, held_out: ExampleSet, stop: Stop
) -> dict[str, Any]:
    """How well the fine-tuned model does its task."""
    tokenizer = Tokenizer.load(parents["checkpoint"])
    if held_out.task == "instruct":
        return {"question_answering": _question_answering(run, parents, tokenizer, held_out, stop)}
    asked = Asked(
        base=parents["checkpoint"],
        tuned=parents["adapter"],
        tokenizer=tokenizer,
        train=train,
        held_out=held_out,
        context_length=run.finetuning.context_length,
        writing=_writing(run),
        num_questions=run.evaluation.num_questions,
        seed=run.seed,
    )
    return {"task": evaluate_task(asked, stop)}


def _of_documents(run: Run, parents: Mapping[str, Path], stop: Stop) -> dict[str, Any]:
    """How well the pre-trained model does what it was trained for."""
    tokenizer = Tokenizer.load(parents["tokenizer"])
    streams = {split: TokenStream.open(parents["tokens"], split, tokenizer) for split in ("train", "validation")}
    corpus = Corpus.load(parents["corpus"])
    context = run.evaluation.context_length or run.pretraining.context_length
    curve = json.loads((parents["checkpoint"] / "curve.json").read_text(encoding="utf-8"))
    if run.pretraining.objective.kind != "causal":
        return _objective(run, parents["checkpoint"], streams, tokenizer, context, curve)
    model = load_decoder(parents["checkpoint"])
    unseen = document_losses(model, streams["validation"], tokenizer.end_of_text_id, context)
    stop.check()
    chosen = sample_documents(streams["train"], streams["validation"].num_tokens, derive(run.seed, "gap") % (1 << 32))
    gap = loss_gap(document_losses(model, streams["train"], tokenizer.end_of_text_id, context, chosen), unseen)
    table: dict[str, Any] = {"verdict": verdict.on_fit(curve, gap)}
    table["language_model"] = _language_model(unseen, streams["validation"], tokenizer, context)
    table["loss_gap"] = gap.facts() | {"verdict": verdict.on_gap(gap), "training_documents": len(chosen)}
    stop.check()
    table["rulers"] = _rulers(run, corpus, streams, tokenizer)
    stop.check()
    table["memorisation"] = _memorisation(run, model, streams, tokenizer)
    stop.check()
    table["continuations"] = _continuations(run, model, tokenizer, corpus)
    return table


def _objective(
    run: Run,
    checkpoint: Path,
    streams: Mapping[str, TokenStream],
    tokenizer: Tokenizer,
    context: int,
    curve: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """How well a model that does not write text does what it was trained to do."""
    model, config = load_model(checkpoint), run.pretraining.objective
    seed = derive(run.seed, "evaluation")
    objective = objective_for(config, streams["validation"], context, tokenizer, seed, model.config)
    rows = range(objective.num_rows)
    score = score_objective(model, objective, rows, streams["train"], tokenizer.vocab_size)
    return {
        "verdict": verdict.on_fit(curve),
        "objective": {"kind": config.kind, **score, "samples": samples(model, objective, rows, tokenizer)},
    }


def _language_model(losses: DocumentLosses, stream: TokenStream, tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    num_bytes = [len(tokenizer.decode(stream.document(i)[:-1].tolist()).encode()) for i in range(stream.num_documents)]
    return {
        "bits_per_byte": bits_per_byte(losses.nats, num_bytes).facts(),
        "perplexity": perplexity(losses.nats, losses.tokens).facts(),
        "token_accuracy": accuracy(losses.correct, losses.tokens).facts(),
        "documents": stream.num_documents,
        "tokens": int(losses.tokens.sum()),
        "bytes": stream.num_bytes,
        "context_length": context,
    }


def _rulers(run: Run, corpus: Corpus, streams: Mapping[str, TokenStream], tokenizer: Tokenizer) -> dict[str, Any]:
    order = run.evaluation.ngram_order
    ngram = InterpolatedNgram(streams["train"], tokenizer.vocab_size, tokenizer.end_of_text_id, order)
    return {
        "xz": {
            "bits_per_byte": xz_bits_per_byte(list(corpus.texts("train")), list(corpus.texts("validation"))),
            "what": "xz -9e that has compressed the training text first",
        },
        "ngram": {
            "bits_per_byte": ngram.bits_per_byte(streams["validation"]),
            "what": ngram.what,
        },
    }


def _memorisation(run: Run, model: Decoder, streams: Mapping[str, TokenStream], tokenizer: Tokenizer) -> dict[str, Any]:
    sampling = replace(_GREEDY, max_new_tokens=CONTINUATION_TOKENS)

    def continue_greedily(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        return generate_many(model, prompts, sampling, tokenizer.end_of_text_id)

    found = {
        split: recite(
            stream,
            continue_greedily,
            tokenizer.end_of_text_id,
            run.evaluation.num_memorisation_documents,
            derive(run.seed, "memorisation", split) % (1 << 32),
        )
        for split, stream in streams.items()
    }
    return {
        "verdict": verdict.on_memorisation(found["train"], found["validation"]),
        **{split: recitation.facts() if recitation else None for split, recitation in found.items()},
    }


def _continuations(run: Run, model: Decoder, tokenizer: Tokenizer, corpus: Corpus) -> list[dict[str, str]]:
    """What the base model writes behind the first words of unseen documents."""
    responder = Responder(model, tokenizer, replace(run.generation, max_new_tokens=60))
    rows = []
    for text in islice(corpus.texts("validation"), _NUM_SAMPLES):
        start = text[:_CONTINUED_CHARACTERS]
        rows.append({"prompt": start, "continuation": "".join(responder.continue_text(start))})
    return rows


def _writing(run: Run) -> SamplingConfig:
    """How answers that are judged are written: the likeliest token each time, or the best that beams find."""
    return replace(run.generation, temperature=0.0, max_new_tokens=run.evaluation.max_answer_tokens)


def _question_answering(
    run: Run, parents: Mapping[str, Path], tokenizer: Tokenizer, held_out: ExampleSet, stop: Stop
) -> dict[str, Any]:
    """The same questions asked of the base model and of the fine-tuned one."""
    order = sorted(conversations(held_out), key=lambda example: derive(run.seed, "asked", example.question))
    asked = order[: run.evaluation.num_questions]
    writing = _writing(run)
    base, knows_template = Responder(load_writer(parents["checkpoint"]), tokenizer, writing), "tokens" not in parents
    ask = base.answer_many if knows_template else base.answer_many_in_plain_text
    before = answer_questions(asked, ask)
    stop.check()
    tuned = Responder(load_writer(parents["checkpoint"], parents["adapter"]), tokenizer, writing)
    after = answer_questions(asked, tuned.answer_many)
    samples = [
        {"question": example.question, "reference": example.answer, "before": first, "after": second}
        for example, first, second in zip(asked, before.answers, after.answers, strict=True)
    ]
    return {
        "questions": len(asked),
        "held_out": len(held_out.examples),
        "before": before.facts(),
        "after": after.facts(),
        "improvement": improvement(before, after).facts(),
        "samples": samples[:12],
    }
