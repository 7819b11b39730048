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
            f"{human_count(facts['num_trainable_parameters'])} adapter parameters, {facts['num_examples']:,} examples"
        )
    if "objective" in report["evaluation"]:
        score = report["evaluation"]["objective"]
        figures = [f"{100 * each:.1f} %" for each in (score["accuracy"]["value"], score["chance"]["accuracy"])]
        return f"{figures[0]} of the {score['kind']} tokens right ({figures[1]} by chance)"
    rulers = report["evaluation"]["rulers"]
    return (
        f"{facts['bits_per_byte']:.3f} bits per byte (xz {rulers['xz']['bits_per_byte']:.3f}, "
        f"n-gram {rulers['ngram']['bits_per_byte']:.3f})"
    )


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
    if "objective" not in report["evaluation"]:
        lines.append(f"      preceptor chat --out {pipeline.out}")
        lines.append(f'      preceptor generate "class Path" --out {pipeline.out}')
    lines.append("")
    return "\n".join(lines)


def _samples(report: dict[str, Any]) -> list[str]:
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
