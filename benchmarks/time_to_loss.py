"""Wall-clock time to a validation loss: the default recipe against GPT-2's, same data and size.

GPT-2's side is the shipped recipe `gpt2`: AdamW, learned positions, LayerNorm, GELU, 160 steps of 4,096 tokens; with
--rates the best of several learning rates is taken. Ours is the recipe `default` with a schedule of its own length,
stopped at the first look at which it has GPT-2's last loss. Both use the same corpus, tokens, validation rows and loop,
one after the other, and looking at the validation loss is not counted. Prints steps, seconds and their ratios.

    python benchmarks/time_to_loss.py [--our-steps 48] [--rates 0.001 0.002] [--out FOLDER]
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from preceptor.core.interrupt import Stop
from preceptor.core.seeds import derive
from preceptor.models.interchange import architecture_of
from preceptor.objectives.causal import CausalObjective
from preceptor.parallel.engine import place
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.run import Run, load_run
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.allocator import keep_freed_memory
from preceptor.train.blend import make_batches
from preceptor.train.optim import Optimizer
from preceptor.train.pretrain import resolve_model, validation_rows
from preceptor.train.schedule import learning_rate_factor

REFERENCE_STEPS = 160
LOOK_EVERY = 2


@dataclass(frozen=True)
class Outcome:
    """How far a side came, and what it took."""

    loss: float
    steps: int
    seconds: float
    num_parameters: int


def train(run: Run, folder: Path, steps: int, target: float | None = None) -> Outcome:
    """The outcome of training a recipe for so many steps, or until its validation loss reaches the target."""
    pipeline = Pipeline(run, folder, Stop())
    tokens, tokenizer = pipeline.tokens(), Tokenizer.load(pipeline.tokenizer().path)
    config = run.pretraining
    resolved = resolve_model(run.model, config, tokenizer)
    model = architecture_of(resolved).family.build(resolved, torch.Generator().manual_seed(run.seed))
    train_side, check = (
        CausalObjective(
            TokenStream.open(tokens.path, split, tokenizer), config.context_length, tokenizer.end_of_text_id
        )
        for split in ("train", "validation")
    )
    batches = make_batches(train_side, config, derive(run.seed, "pretraining"))
    rows = validation_rows(check, replace(config, validation_tokens=32_768), batches.seed)
    engine = place(model)
    optimizer = Optimizer(engine.parameters, config.optimizer)
    seconds, loss, step = 0.0, float("inf"), 0
    while step < steps:
        started = time.perf_counter()
        count = engine.forward_backward(train_side, batches.at(step)).tokens
        engine.scale_and_clip(1 / count, config.max_grad_norm)
        optimizer.step(learning_rate_factor(config.schedule, step, steps))
        engine.clear_gradients()
        seconds, step = seconds + time.perf_counter() - started, step + 1
        if step == steps or (target is not None and step % LOOK_EVERY == 0):
            looks = (check.collate(rows[start : start + 16]) for start in range(0, len(rows), 16))
            total, _, count = engine.evaluate(check, looks)
            loss = total / count
            if target is not None and loss <= target:
                break
    return Outcome(loss, step, seconds, sum(parameter.numel() for parameter in model.parameters()))


def main() -> None:
    """Train both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--our-steps", type=int, default=48, help="length of our schedule")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.002], help="GPT-2's learning rates")
    parser.add_argument("--out", type=Path, help="folder whose corpus and tokens are used again")
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        tries = [
            train(load_run("gpt2", [f"pretraining.optimizer.learning_rate={rate}"]), folder, REFERENCE_STEPS)
            for rate in arguments.rates
        ]
        reference = min(tries, key=lambda outcome: outcome.loss)
        ours = train(load_run("default"), folder, arguments.our_steps, target=reference.loss)
    print(f"{'recipe':10s}{'parameters':>12s}{'steps':>8s}{'seconds':>10s}{'validation loss':>18s}")
    for name, outcome in (("gpt2", reference), ("default", ours)):
        print(f"{name:10s}{outcome.num_parameters:12,}{outcome.steps:8d}{outcome.seconds:10.1f}{outcome.loss:18.4f}")
    if ours.loss > reference.loss:
        print(f"not reached in {arguments.our_steps} steps")
    else:
        print(
            f"ratio: {ours.seconds / reference.seconds:.2f} of the time, "
            f"{ours.steps / reference.steps:.2f} of the steps"
        )


if __name__ == "__main__":
    main()
