"""A published encoder that learns to tell praise from blame, in four ways, beside peft and transformers' Trainer.

    python benchmarks/adapt_encoder.py --base FOLDER --data FOLDER [--epochs 3] [--methods full lora prefix prompt]

``--base`` is a BERT in Hugging Face's layout (all-MiniLM-L6-v2 in the published figures), ``--data`` holds
sentence-polarity-train.tsv and sentence-polarity-test.tsv with the columns label and text. Each side runs in a process
of its own, with the same learning rate, 32 sentences a step, and the test sentences are never trained on. Seconds and
joules are those of the training alone; peak memory is the largest resident set of the whole process.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from adapt_sides import ALPHA, ENCODER_RATES, RANK, VIRTUAL_TOKENS, classify, measured, say

SENTENCES_A_STEP = 32
TOKENS_A_STEP = 1024
"""About as many sentences a step as the peer takes: a sentence has some 27 tokens with those that frame it."""


def ours(arguments: argparse.Namespace, method: str) -> dict[str, Any]:
    """Our own figures: a run of the recipe "classify"."""
    from preceptor.core.interrupt import Stop
    from preceptor.recipes.pipeline import Pipeline
    from preceptor.recipes.run import load_run

    words = [
        f"base.model={arguments.base}",
        f"finetuning.examples={arguments.data}/sentence-polarity-train.tsv",
        f"finetuning.held_out={arguments.data}/sentence-polarity-test.tsv",
        f"finetuning.duration={arguments.epochs} epochs",
        f"finetuning.batch_tokens={TOKENS_A_STEP}",
        f"finetuning.micro_batch_tokens={TOKENS_A_STEP}",
        f"finetuning.adapter.kind={method}",
        f"finetuning.adapter.rank={RANK}",
        f"finetuning.adapter.alpha={ALPHA}",
        f"finetuning.adapter.num_virtual_tokens={VIRTUAL_TOKENS}",
        f"finetuning.optimizer.learning_rate={ENCODER_RATES[method]}",
        "finetuning.validation_every_steps=1000",
        "finetuning.checkpoint_every_steps=1000",
    ]
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(load_run("classify", words), Path(folder), Stop())
        pipeline.evaluation()
        made = {row.stage: row for row in pipeline.rows}
        scores = json.loads(made["evaluate"].artifact.file("evaluation.json").read_text(encoding="utf-8"))
        facts, cost = made["finetune"].artifact.facts, made["finetune"].cost
    return {
        "accuracy": next(each["value"] for each in scores["task"]["scores"] if each["name"] == "accuracy"),
        "seconds": cost.seconds,
        "joules": cost.joules,
        "trained": facts["num_trainable_parameters"],
        "parameters": facts["num_parameters"],
    }


def main() -> None:
    """Print a row for each way and side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(ENCODER_RATES), choices=list(ENCODER_RATES))
    parser.add_argument("--side", choices=("ours", "peft"))
    arguments = parser.parse_args()
    if arguments.side:
        method = arguments.methods[0]
        if arguments.side == "ours":
            figures = ours(arguments, method)
        else:
            figures = classify(arguments.base, arguments.data, method, arguments.epochs, SENTENCES_A_STEP)
        say(figures)
        return
    shared = {"data": arguments.data, "epochs": arguments.epochs}
    print(f"{'way':8s}{'side':8s}{'accuracy':>9s}{'trained':>12s}{'of':>12s}{'seconds':>9s}{'joules':>9s}{'MB':>7s}")
    for method in arguments.methods:
        for side in ("ours", "peft"):
            row = measured(__file__, base=arguments.base, side=side, methods=method, **shared)
            if "error" in row:
                print(f"{method:8s}{side:8s} failed: {row['error']}")
                continue
            print(
                f"{method:8s}{side:8s}{row['accuracy']:9.4f}{row['trained']:12,d}{row['parameters']:12,d}"
                f"{row['seconds']:9.1f}{row['joules']:9.0f}{row['megabytes']:7.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
