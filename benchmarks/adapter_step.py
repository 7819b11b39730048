"""A step of LoRA on questions with answers beside peft's on the same examples: seconds, and peak bytes of tensors.

    python benchmarks/adapter_step.py --data FOLDER [--steps 4] [--examples 32]

``--data`` holds gsm8k-train.jsonl. The model is the 14 M decoder of benchmarks/instruction_tuning.py with adapters of
rank 16 on every linear layer, in float32; only answers are supervised, and both sides accumulate the gradients of the
same questions. Theirs are padded to the longest of 8, the batch that their Trainer takes where nothing is said; ours
are packed, 4 rows of 512 tokens at a time, which are about as many places. Each side runs in a process of its own; peak
bytes are those of a step beyond what is held before it, as PyTorch's profiler records them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from activation_memory import measured
from adapt_sides import padded, questions
from instruction_tuning import make_base

RANK, ALPHA, RATE = 16, 32, 3e-4
ROW, ROWS_AT_A_TIME, EXAMPLES_AT_A_TIME = 512, 4, 8
SIDES = ("ours", "peft")


def ours(base: Path, data: Path, count: int) -> Callable[[], None]:
    """A step of ours."""
    from dataclasses import replace

    from preceptor.adapters.adapter_config import AdapterConfig
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
    examples = replace(found, examples=found.examples[:count])
    config = FinetuningConfig(
        context_length=ROW,
        batch_tokens=ROW * ROWS_AT_A_TIME,
        micro_batch_tokens=ROW * ROWS_AT_A_TIME,
        adapter=AdapterConfig(rank=RANK, alpha=ALPHA),
        optimizer=OptimizerConfig(kind="adamw", learning_rate=RATE, weight_decay=0.0),
    )
    learner = make_learner(base, config, examples, Tokenizer.load(base), 0)
    objective = learner.read(examples).objective
    starts = range(0, objective.num_rows, ROWS_AT_A_TIME)
    batches = [objective.collate(range(at, min(at + ROWS_AT_A_TIME, objective.num_rows))) for at in starts]
    engine = place(learner.model)
    optimizer = Optimizer(engine.parameters, config.optimizer)

    def step() -> None:
        sums = engine.forward_backward(objective, batches)
        engine.scale_and_clip(1 / sums.tokens, config.max_grad_norm, None)
        optimizer.step(1.0)
        engine.clear_gradients()

    return step


def peft(base: Path, data: Path, count: int) -> Callable[[], None]:
    """A step of peft over transformers' model."""
    import peft as library
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    rows = questions(data / "gsm8k-train.jsonl", count)
    starts = range(0, count, EXAMPLES_AT_A_TIME)
    batches = [padded(tokenizer, rows[start : start + EXAMPLES_AT_A_TIME]) for start in starts]
    supervised = sum(int((batch["labels"] >= 0).sum()) for batch in batches)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = library.LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    model: Any = library.get_peft_model(plain, config).train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)

    def step() -> None:
        for batch in batches:
            model(**batch, num_items_in_batch=supervised).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Print a row for each side, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        make = ours if given.side == "ours" else peft
        print(json.dumps(measured(make(given.base, given.data, given.examples), given.steps)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        make_base(Path(folder), given.data)
        for side in SIDES:
            command = [sys.executable, __file__, "--data", str(given.data), "--base", folder, "--side", side]
            command += ["--steps", str(given.steps), "--examples", str(given.examples)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[side] = json.loads(done.stdout.strip().splitlines()[-1])
            row = found[side]
            print(f"{side:6s}{row['seconds']:8.3f} s a step{row['peak'] / 2**20:9.1f} MiB of tensors", flush=True)
    ours_, theirs = found["ours"], found["peft"]
    print(f"ratio {ours_['seconds'] / theirs['seconds']:8.2f}{'':9s}{ours_['peak'] / theirs['peak']:9.2f}")


if __name__ == "__main__":
    main()
