"""A published chat model on questions with answers, by LoRA and QLoRA, beside transformers, peft and bitsandbytes.

    python benchmarks/adapt_decoder.py --base MODEL --data FOLDER [--steps 12] [--methods lora qlora]

``--base`` is a GGUF file or a folder in Hugging Face's layout (SmolLM2-135M-Instruct in the published figures), and
``--data`` holds gsm8k-train.jsonl. A step is 512 tokens; adapters of rank 8 on every linear layer, AdamW at 2e-4.
Each side runs in a process of its own, and takes other examples in another order, so that losses are alike, not equal.
Base bytes are those of the weights that are held while training; peak memory is the largest resident set.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from adapt_sides import instruct, measured, say

TOKENS_A_STEP = 512


def ours(arguments: argparse.Namespace, method: str) -> dict[str, Any]:
    """Our own figures: a run of the recipe "instruct" up to its adapter."""
    from preceptor.core.interrupt import Stop
    from preceptor.recipes.pipeline import Pipeline
    from preceptor.recipes.run import load_run

    words = [
        f"base.model={arguments.base}",
        f"finetuning.examples={arguments.data}/gsm8k-train.jsonl",
        f"finetuning.duration={arguments.steps} steps",
        f"finetuning.context_length={TOKENS_A_STEP}",
        f"finetuning.batch_tokens={TOKENS_A_STEP}",
        f"finetuning.micro_batch_tokens={TOKENS_A_STEP}",
        "finetuning.validation_tokens=512",
        "finetuning.validation_every_steps=1000",
        "finetuning.checkpoint_every_steps=1000",
        "finetuning.adapter.rank=8",
        "finetuning.adapter.alpha=16",
        "finetuning.optimizer.learning_rate=2e-4",
        "finetuning.schedule.kind=constant",
        "finetuning.schedule.warmup_steps=0",
        f"finetuning.quantise={'nf4' if method == 'qlora' else 'none'}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(load_run("instruct", words), Path(folder), Stop())
        adapter = pipeline.adapter()
        assert adapter is not None
        (metrics,) = (Path(folder) / "metrics").glob("finetune-????????????.jsonl")
        records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    losses = [record["loss"] for record in records]
    seconds = [record["seconds"] for record in records[1:]]
    return {
        "first_loss": losses[0],
        "last_loss": sum(losses[-3:]) / len(losses[-3:]),
        "seconds_per_step": sum(seconds) / len(seconds),
        "base_bytes": adapter.facts["base_bytes"],
        "trained": adapter.facts["num_trainable_parameters"],
        "parameters": adapter.facts["num_parameters"],
    }


def in_their_layout(base: Path, folder: Path) -> Path:
    """The base as a folder that transformers reads."""
    from preceptor.models.interchange import save_model
    from preceptor.recipes.model_lookup import find_model

    if base.is_dir():
        return base
    model, tokenizer = find_model(base)
    save_model(model, folder, tokenizer.end_of_text_id)
    tokenizer.save(folder)
    return folder


def main() -> None:
    """Print a row for each way and side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--methods", nargs="+", default=["lora", "qlora"], choices=["lora", "qlora"])
    parser.add_argument("--side", choices=("ours", "peft"))
    arguments = parser.parse_args()
    if arguments.side:
        method = arguments.methods[0]
        if arguments.side == "ours":
            figures = ours(arguments, method)
        else:
            figures = instruct(arguments.base, arguments.data, method, arguments.steps, TOKENS_A_STEP)
        say(figures)
        return
    shared = {"data": arguments.data, "steps": arguments.steps}
    print(
        f"{'way':7s}{'side':7s}{'first loss':>11s}{'last':>7s}{'s/step':>8s}{'base MB':>9s}{'trained':>11s}{'MB':>7s}"
    )
    with tempfile.TemporaryDirectory() as folder:
        base = in_their_layout(arguments.base, Path(folder))
        for method in arguments.methods:
            for side in ("ours", "peft"):
                row = measured(__file__, base=base, side=side, methods=method, **shared)
                if "error" in row:
                    print(f"{method:7s}{side:7s} failed: {row['error']}")
                    continue
                print(
                    f"{method:7s}{side:7s}{row['first_loss']:11.3f}{row['last_loss']:7.3f}"
                    f"{row['seconds_per_step']:8.2f}{row['base_bytes'] / 1e6:9.1f}{row['trained']:11,d}"
                    f"{row['megabytes']:7.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
