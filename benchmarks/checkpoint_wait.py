"""The share of training's time that is spent waiting for checkpoints, written in the background and in the foreground.

The default recipe's model is trained by the real loop from its own corpus, with checkpoints more often than the recipe
has them. Every way is a training of its own from the same weights, in turns; what is left of its checkpoints at the end
(`finish`) is counted too, beside it. Checkpoints go to a folder under --out, on whose disk it depends what is waited.

    python benchmarks/checkpoint_wait.py [--steps 60] [--every 20] [--out FOLDER]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from preceptor.core.interrupt import Stop
from preceptor.core.seeds import derive
from preceptor.models.interchange import architecture_of
from preceptor.objectives.causal import CausalObjective
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.run import Run, load_run
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.allocator import keep_freed_memory
from preceptor.train.blend import make_batches
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.length import Length
from preceptor.train.loop import fit
from preceptor.train.optim import Optimizer
from preceptor.train.placement import prepared
from preceptor.train.pretrain import resolve_model
from preceptor.train.state import TrainState, Validation

GOAL = 0.02


@dataclass(frozen=True)
class Waited:
    """What one training took, in seconds, and what its checkpoints are."""

    loop: float
    waiting: float
    """Of the loop's, those in which training stood still for checkpoints."""
    finishing: float
    """Those after the loop, until everything was on the disk."""
    num_checkpoints: int
    bytes_each: int


def train(run: Run, corpus: Path, folder: Path, *, steps: int, every: int, in_background: bool) -> Waited:
    """What a training of so many steps waits for its checkpoints, the last of which is at its last step."""
    pipeline = Pipeline(run, corpus, Stop())
    tokens, tokenizer = pipeline.tokens(), Tokenizer.load(pipeline.tokenizer().path)
    # The loop saves nothing at its end, which belongs to the stage; one step more brings the last checkpoint.
    config = replace(run.pretraining, checkpoint_every_steps=every, validation_every_steps=steps + 2)
    resolved = resolve_model(run.model, config, tokenizer)
    model = architecture_of(resolved).family.build(resolved, torch.Generator().manual_seed(run.seed))
    stream = TokenStream.open(tokens.path, "train", tokenizer)
    objective = CausalObjective(stream, config.context_length, tokenizer.end_of_text_id)
    engine = prepared(model, config, steps + 1)
    optimizer = Optimizer(engine.parameters, config.optimizer)
    checkpoints = Checkpoints(folder, "benchmark", config.keep_checkpoints, in_background=in_background)
    started = time.perf_counter()
    fit(
        config,
        engine,
        optimizer,
        make_batches(objective, config, derive(run.seed, "pretraining")),
        TrainState(),
        length=Length.of_steps(steps + 1),
        validate=lambda: Validation(0.0, 0.0),
        save=lambda state: checkpoints.save(engine, optimizer, state),
        stop=Stop(),
    )
    loop, waiting = time.perf_counter() - started, checkpoints.waited_seconds
    checkpoints.finish()
    newest = max(folder.glob("step-[0-9]*"))
    return Waited(
        loop=loop,
        waiting=waiting,
        finishing=checkpoints.waited_seconds - waiting,
        num_checkpoints=steps // every,
        bytes_each=sum(path.stat().st_size for path in newest.rglob("*") if path.is_file()),
    )


def tell(found: dict[str, Waited]) -> None:
    """Print the table."""
    print(f"{'checkpoints':16s}{'loop, s':>10s}{'waiting, s':>12s}{'share':>9s}{'each, s':>9s}{'at the end, s':>15s}")
    for name, waited in found.items():
        each = waited.waiting / waited.num_checkpoints
        share = waited.waiting / waited.loop
        print(f"{name:16s}{waited.loop:10.1f}{waited.waiting:12.3f}{share:9.2%}{each:9.3f}{waited.finishing:15.3f}")
    background = found["in background"]
    print(f"a checkpoint is {background.bytes_each:,} bytes; {background.num_checkpoints} were saved each time")
    share = background.waiting / background.loop
    print(f"in background: {share:.2%} of the loop, {'within' if share <= GOAL else 'above'} the {GOAL:.0%} aimed at")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train in both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="steps of each training")
    parser.add_argument("--every", type=int, default=20, help="steps between two checkpoints")
    parser.add_argument("--out", type=Path, help="folder whose corpus and tokens are used again")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    options = parser.parse_args(arguments)
    if not 1 <= options.every <= options.steps:
        parser.error(f"--every must be from 1 to --steps ({options.steps}), got {options.every}")
    keep_freed_memory()
    run = load_run("default", options.settings)
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        corpus = options.out or Path(temporary)
        corpus.mkdir(parents=True, exist_ok=True)
        for name, in_background in (("in background", True), ("in foreground", False)):
            with tempfile.TemporaryDirectory(dir=corpus) as folder:
                found[name] = train(
                    run, corpus, Path(folder), steps=options.steps, every=options.every, in_background=in_background
                )
    tell(found)


if __name__ == "__main__":
    main()
