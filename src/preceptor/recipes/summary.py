"""What `run` says at its end: what each stage gave and cost, three answers, and what to type next."""

from typing import Any

from preceptor.core.units import human_count, human_joules, human_seconds
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.stages import StageRow


def _outcome(row: StageRow, report: dict[str, Any]) -> str:
    """What a stage gave, in a few words."""
    facts = row.artifact.facts
    if row.stage == "data":
        return f"{facts['documents_kept']:,} of {facts['documents_in']:,} documents kept"
    if row.stage == "base":
        return f"{human_count(facts['num_parameters'])} parameters, {facts['architecture']}"
    if row.stage == "tokenizer":
        return f"{facts['vocab_size']:,} tokens in the vocabulary"
    if row.stage == "tokens":
        return f"{human_count(facts['train']['tokens'])} tokens to train on"
    if row.stage == "pretrain":
        return f"{human_count(facts['num_parameters'])} parameters, validation loss {facts['validation_loss']:.3f}"
    if row.stage == "finetune":
        return (
            f"{human_count(facts['num_trainable_parameters'])} parameters trained, {facts['num_examples']:,} examples"
        )
    return _judged(report["evaluation"])


def _judged(evaluation: dict[str, Any]) -> str:
    """How good the model is, in one figure beside what it is measured by."""
    if "task" in evaluation:
        first = evaluation["task"]["scores"][0]
        beside = [f"{score['value']:.3f} {name}" for name, score in first["baselines"].items()]
        return f"{first['name']} {first['value']:.3f}" + (f" ({beside[0]})" if beside else "")
    if "objective" in evaluation:
        score = evaluation["objective"]
        figures = [f"{100 * each:.1f} %" for each in (score["accuracy"]["value"], score["chance"]["accuracy"])]
        return f"{figures[0]} of the {score['kind']} tokens right ({figures[1]} by chance)"
    if "language_model" in evaluation:
        rulers = evaluation["rulers"]
        return (
            f"{evaluation['language_model']['bits_per_byte']['value']:.3f} bits per byte "
            f"(xz {rulers['xz']['bits_per_byte']:.3f}, n-gram {rulers['ngram']['bits_per_byte']:.3f})"
        )
    before, after = (evaluation["question_answering"][side]["token_f1"]["value"] for side in ("before", "after"))
    return f"token F1 {before:.3f} before, {after:.3f} after"


def summary(pipeline: Pipeline, report: dict[str, Any]) -> str:
    """The table, the answers and the commands, as text."""
    lines = ["", f"{'stage':10s} {'what came out':68s} {'time':>9s} {'energy':>9s}"]
    for row in pipeline.rows:
        time, energy = human_seconds(row.cost.seconds), human_joules(row.cost.joules)
        reused = " (made before)" if row.reused else ""
        lines.append(f"{row.stage:10s} {_outcome(row, report) + reused:68s} {time:>9s} {energy:>9s}")
    total = report["footprint"]["total"]
    time, energy = human_seconds(total["seconds"]), human_joules(total["joules"])
    lines.append(f"{'in all':10s} {total['grams_co2e']:.2f} g CO2e{'':58s} {time:>9s} {energy:>9s}")
    lines += ["", *_samples(report)]
    lines.append(f"Next: open {pipeline.out / 'report.html'}")
    lines += [f"      {command} --out {pipeline.out}" for command in _commands(report["evaluation"])]
    lines.append("")
    return "\n".join(lines)


def _commands(evaluation: dict[str, Any]) -> list[str]:
    """What can be asked of the model."""
    commands = ['preceptor predict "a text"'] if "task" in evaluation else []
    if "language_model" in evaluation or "question_answering" in evaluation:
        commands += ["preceptor chat"]
    if "language_model" in evaluation:
        commands += ['preceptor generate "class Path"']
    return commands


def _samples(report: dict[str, Any]) -> list[str]:
    if "task" in report["evaluation"]:
        task = report["evaluation"]["task"]
        lines = [*task["verdicts"]]
        for row in task["samples"][:3]:
            lines += [
                f"  {' '.join(row['input'].split())[:110]}",
                f"    {row['said']} (expected: {row['expected']})",
                "",
            ]
        return lines
    if "objective" in report["evaluation"]:
        shown = []
        for row in report["evaluation"]["objective"]["samples"]:
            shown += [f"  {row['text']}", f"    {row['said']!r}, expected {row['expected']!r}", ""]
        return shown
    answering = report["evaluation"].get("question_answering")
    if not answering:
        lines = [
            "No examples were named (finetuning.examples), so there is no fine-tuned model. The base model writes:"
        ]
        for row in report["evaluation"]["continuations"]:
            lines += [f"  {' '.join((row['prompt'] + row['continuation']).split())[:110]}", ""]
        return lines
    before, after = (answering[side]["token_f1"]["value"] for side in ("before", "after"))
    lines = [f"Questions it never saw: token F1 {before:.3f} before fine-tuning, {after:.3f} after."]
    for row in answering["samples"][:3]:
        lines += [f"  Q: {row['question']}", f"  A: {row['after']}", f"     (expected: {row['reference']})", ""]
    return lines
