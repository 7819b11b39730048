"""A published chat model on questions with answers, by LoRA and QLoRA, beside transformers, peft and bitsandbytes.

    python benchmarks/adapt_decoder.py --base MODEL --data FOLDER [--steps 8] [--examples 4] [--methods lora qlora]

``--base`` is a GGUF file or a folder in Hugging Face's layout (SmolLM2-135M-Instruct in the published figures), and
``--data`` holds gsm8k-train.jsonl. A step is the next questions of the file, the same on both sides, of which only the
answers are supervised; adapters of rank 8 on every linear layer, AdamW at 2e-4. Theirs are padded to the longest, as
their guides have it, ours are packed into rows of 512. Adapters start from other draws and change nothing at first, so
first losses are equal and later ones alike. Each side runs in a process of its own; the first step is not timed. Base
bytes are those of the weights that are held while training; peak memory is the largest resident set.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from adapt_sides import instruct, measured, say

ROW = 512


def ours(base: Path, data: Path, method: str, steps: int, count: int) -> dict[str, Any]:
    """Our own figures."""
    from dataclasses import replace

    from preceptor.adapters.adapter_config import AdapterConfig
    from preceptor.adapters.quantised import weight_bytes
    from preceptor.data.examples import read_examples
    from preceptor.parallel.engine import place
    from preceptor.tokenizer.tokenizer import Tokenizer
    from preceptor.train.allocator import keep_freed_memory
    from preceptor.train.finetune import make_learner
    from preceptor.train.optim import Optimizer
    from preceptor.train.optim_config import OptimizerConfig
    from preceptor.train.run import FinetuningConfig

    keep_freed_memory()
    found = read_examples(data / "gsm8k-train.jsonl")
    config = FinetuningConfig(
        context_length=ROW,
        batch_tokens=ROW,
        micro_batch_tokens=ROW,
        adapter=AdapterConfig(rank=8, alpha=16),
        optimizer=OptimizerConfig(kind="adamw", learning_rate=2e-4, weight_decay=0.0, beta2=0.999),
        quantise="nf4" if method == "qlora" else "none",
    )
    parts = [replace(found, examples=found.examples[step * count : (step + 1) * count]) for step in range(steps)]
    learner = make_learner(base, config, parts[0], Tokenizer.load(base), 0)
    engine = place(learner.model)
    optimizer = Optimizer(engine.parameters, config.optimizer)
    objectives = [learner.read(part).objective for part in parts]
    batches = [objective.collate(range(objective.num_rows)) for objective in objectives]
    losses, marks = [], [time.perf_counter()]
    for objective, batch in zip(objectives, batches, strict=True):
        loss = objective.loss(learner.model, batch)
        loss.total.backward()  # type: ignore[no-untyped-call]
        engine.scale_and_clip(1 / loss.tokens, config.max_grad_norm, None)
        optimizer.step(1.0)
        engine.clear_gradients()
        losses.append(float(loss.total.detach()) / loss.tokens)
        marks.append(time.perf_counter())
    trained = [each for each in learner.model.parameters() if each.requires_grad]
    return {
        "losses": losses,
        "seconds_per_step": (marks[-1] - marks[1]) / max(1, steps - 1),
        "tokens_per_step": sum(objective.plan.lengths.sum().item() for objective in objectives) / steps,
        "base_bytes": weight_bytes(learner.model) - sum(each.nbytes for each in trained),
        "trained": sum(each.numel() for each in trained),
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
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--examples", type=int, default=4, help="questions in a step")
    parser.add_argument("--methods", nargs="+", default=["lora", "qlora"], choices=["lora", "qlora"])
    parser.add_argument("--side", choices=("ours", "peft"))
    arguments = parser.parse_args()
    if arguments.side:
        run = ours if arguments.side == "ours" else instruct
        say(run(arguments.base, arguments.data, arguments.methods[0], arguments.steps, arguments.examples))
        return
    shared = {"data": arguments.data, "steps": arguments.steps, "examples": arguments.examples}
    print(
        f"{'way':7s}{'side':7s}{'first loss':>12s}{'last':>9s}{'tokens/step':>13s}{'s/step':>8s}{'base MB':>9s}"
        f"{'trained':>11s}{'MB':>7s}"
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
                    f"{method:7s}{side:7s}{row['losses'][0]:12.5f}{row['losses'][-1]:9.5f}{row['tokens_per_step']:13.1f}"
                    f"{row['seconds_per_step']:8.2f}{row['base_bytes'] / 1e6:9.1f}{row['trained']:11,d}"
                    f"{row['megabytes']:7.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
