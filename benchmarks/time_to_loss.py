"""Time to a validation loss: the default recipe against GPT-2's, same data and size.

GPT-2's side is the shipped recipe `gpt2`: AdamW, learned positions, LayerNorm, GELU, 160 steps of 4,096 tokens, at the
learning rate of --rate. Ours is the recipe `default` as it ships, but for the length of its schedule: --our-steps, or
the recipe's own if that is 0; it is printed. The seconds are those up to the first look that finds GPT-2's last loss.

Both use the same corpus, tokens, validation rows and loop. Their steps are taken in turns, in one process, so that what
else runs on the machine slows both alike; looking at the validation loss is not counted. Prints steps, tokens, seconds
by the clock and of the processor, and their ratios.

    python benchmarks/time_to_loss.py [--our-steps 50] [--rate 0.002] [--out FOLDER]
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
from preceptor.train.blend import count_steps, make_batches
from preceptor.train.optim import Optimizer
from preceptor.train.pretrain import resolve_model
from preceptor.train.schedule import learning_rate_factor
from preceptor.train.session import validation_rows

REFERENCE_STEPS = 160
OUR_STEPS = 50
LOOK_EVERY = 2


@dataclass(frozen=True)
class Look:
    """The validation loss after so many steps, and what it took to come there."""

    loss: float
    steps: int
    tokens: int
    seconds: float
    cpu_seconds: float


class Side:
    """A recipe that is trained step by step, with its looks at the validation loss."""

    def __init__(self, run: Run, folder: Path, steps: int) -> None:
        self.config = run.pretraining
        pipeline = Pipeline(run, folder, Stop())
        tokens, tokenizer = pipeline.tokens(), Tokenizer.load(pipeline.tokenizer().path)
        resolved = resolve_model(run.model, self.config, tokenizer)
        model = architecture_of(resolved).family.build(resolved, torch.Generator().manual_seed(run.seed))
        self.train_side, self.check = (
            CausalObjective(
                TokenStream.open(tokens.path, split, tokenizer), self.config.context_length, tokenizer.end_of_text_id
            )
            for split in ("train", "validation")
        )
        self.batches = make_batches(self.train_side, self.config, derive(run.seed, "pretraining"))
        looked_at = replace(self.config, validation_tokens=32_768)
        self.rows = validation_rows(self.check, looked_at, self.batches.seed)
        self.engine = place(model)
        self.optimizer = Optimizer(self.engine.parameters, self.config.optimizer)
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.num_steps = steps or count_steps(self.config, self.batches, self.train_side.plan.fill)
        self.step, self.tokens, self.seconds, self.cpu_seconds = 0, 0, 0.0, 0.0
        self.looks: list[Look] = []

    def train(self, steps: int) -> None:
        """Train until so many steps, at most to the end of the schedule."""
        while self.step < min(steps, self.num_steps):
            started, cpu_started = time.perf_counter(), time.process_time()
            count = self.engine.forward_backward(self.train_side, self.batches.at(self.step)).tokens
            self.engine.scale_and_clip(1 / count, self.config.max_grad_norm)
            factor = learning_rate_factor(self.config.schedule, self.step, self.num_steps)
            self.optimizer.step(factor * self.batches.rate_scale(self.step))
            self.engine.clear_gradients()
            self.seconds += time.perf_counter() - started
            self.cpu_seconds += time.process_time() - cpu_started
            self.step, self.tokens = self.step + 1, self.tokens + count

    def look(self) -> None:
        """Take the validation loss."""
        starts = range(0, len(self.rows), 16)
        chunks = ((self.check.collate(self.rows[start : start + 16]), True) for start in starts)
        total, _, count = self.engine.evaluate(self.check, chunks)
        self.looks.append(Look(total / count, self.step, self.tokens, self.seconds, self.cpu_seconds))


def race(ours: Side, theirs: Side) -> None:
    """Train both to the end of their schedules, each as far along as the other; ours is looked at on the way."""
    for step in range(1, ours.num_steps + 1):
        ours.train(step)
        theirs.train(step * theirs.num_steps // ours.num_steps)
        # What is far from GPT-2's loss need not be looked at.
        if step == ours.num_steps or (step % LOOK_EVERY == 0 and step >= ours.num_steps * 3 // 4):
            ours.look()
    theirs.look()


def main() -> None:
    """Train both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--our-steps", type=int, default=OUR_STEPS, help="length of our schedule; 0 for the recipe's")
    parser.add_argument("--rate", type=float, default=0.002, help="GPT-2's learning rate")
    parser.add_argument("--out", type=Path, help="folder whose corpus and tokens are used again")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="changes to our recipe, to try them")
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        rate = f"pretraining.optimizer.learning_rate={arguments.rate}"
        theirs = Side(load_run("gpt2", [rate]), folder, REFERENCE_STEPS)
        ours = Side(load_run("default", arguments.settings), folder, arguments.our_steps)
        race(ours, theirs)
    (last,) = theirs.looks
    reached = next((look for look in ours.looks if look.loss <= last.loss), None)
    sizes = sorted({ours.batches.sizes.rows(step) * ours.config.context_length for step in range(ours.num_steps)})
    shown = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
    print(f"default: a schedule of {ours.num_steps} steps of {shown} tokens; gpt2: {theirs.num_steps} steps")
    print(f"{'recipe':10s}{'parameters':>12s}{'steps':>7s}{'tokens':>10s}{'seconds':>9s}{'processor':>11s}{'loss':>9s}")
    for name, side, look in (("gpt2", theirs, last), ("default", ours, reached or ours.looks[-1])):
        times = f"{look.seconds:9.1f}{look.cpu_seconds:11.1f}"
        print(f"{name:10s}{side.num_parameters:12,}{look.steps:7d}{look.tokens:10,}{times}{look.loss:9.4f}")
    print(f"default at the end of its schedule: {ours.looks[-1].loss:.4f}")
    if reached is None:
        print("GPT-2's loss was not reached")
        return
    print(
        f"ratio: {reached.seconds / last.seconds:.3f} of the time, {reached.cpu_seconds / last.cpu_seconds:.3f} of the "
        f"processor's, {reached.tokens / last.tokens:.3f} of the tokens"
    )


if __name__ == "__main__":
    main()
