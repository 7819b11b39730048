"""Questions with answers learned by a 14 M decoder: examples a second beside TRL's SFTTrainer, and the same losses.

    python benchmarks/instruction_tuning.py --data FOLDER --trl FOLDER [--steps 30] [--loss-steps 50]

``--data`` holds gsm8k-train.jsonl; ``--trl`` holds TRL and what it needs, beside our own packages. Each side runs in a
process of its own, on the same weights and tokenizer, in float32 on all cores. TRL runs at its defaults (8 examples a
step, padded) and with packing=True (rows of 1,024 tokens); we run as the recipe "instruct" does, packed, 4 rows of 512
tokens. The first steps of each side are warm-up and are not timed. The second table trains both sides on the same 8
examples a step, unpacked on TRL's side, with the same optimizer and rate, and compares the losses.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from adapt_sides import EXAMPLES_A_STEP, NUM_EXAMPLES, questions, tune

VOCABULARY, WIDTH, INSIDE, LAYERS, HEADS, CONTEXT = 8192, 384, 1024, 6, 6, 1024
RATE = 3e-4
WARMUP_STEPS = 3
SIDES = ("ours", "trl", "trl, packed")


def make_base(folder: Path, data: Path) -> None:
    """Write a decoder of Llama's shape with its starting weights, and a tokenizer trained on the questions."""
    import torch

    from preceptor.models.decoder import build
    from preceptor.models.decoder_config import DecoderConfig
    from preceptor.models.interchange import save_model
    from preceptor.tokenizer.chat import DEFAULT_TEMPLATE
    from preceptor.tokenizer.config import TokenizerConfig
    from preceptor.tokenizer.training import train

    rows = questions(data / "gsm8k-train.jsonl", 8000)
    texts = [text for row in rows for text in (row["question"], row["answer"])]
    tokenizer = train(texts, TokenizerConfig(kind="byte-bpe", vocab_size=VOCABULARY), folder)
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=WIDTH,
        intermediate_size=INSIDE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=CONTEXT,
        qk_norm="none",
        tie_word_embeddings=True,
    )
    save_model(build(config, torch.Generator().manual_seed(0)), folder, tokenizer.end_of_text_id)
    path = folder / "config.json"
    # Otherwise transformers never learns what the token is at the beginning of a text, since it is the padding too.
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"pad_token_id": None}), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    end = tokenizer.end_of_text
    table |= {"chat_template": DEFAULT_TEMPLATE, "eos_token": end, "bos_token": end, "pad_token": end}
    path.write_text(json.dumps(table | {"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")


def _learner(base: Path, data: Path, steps: int) -> Any:
    """Our model, all weights of which train, its settings, and the examples."""
    from preceptor.adapters.adapter_config import AdapterConfig
    from preceptor.data.example_types import ExampleSet
    from preceptor.data.examples import read_examples
    from preceptor.tokenizer.tokenizer import Tokenizer
    from preceptor.train.allocator import keep_freed_memory
    from preceptor.train.finetune import make_learner
    from preceptor.train.optim_config import OptimizerConfig, ScheduleConfig
    from preceptor.train.run import FinetuningConfig

    keep_freed_memory()
    found = read_examples(data / "gsm8k-train.jsonl")
    examples = ExampleSet(task="instruct", examples=found.examples[:NUM_EXAMPLES], shape=found.shape)
    config = FinetuningConfig(
        context_length=512,
        batch_tokens=2048,
        micro_batch_tokens=2048,
        duration=f"{steps} steps",
        adapter=AdapterConfig(kind="full"),
        optimizer=OptimizerConfig(kind="adamw", learning_rate=RATE, weight_decay=0.0, beta2=0.999),
        schedule=ScheduleConfig(kind="constant", warmup_steps=0),
        validation_every_steps=10_000,
        checkpoint_every_steps=10_000,
    )
    return make_learner(base, config, examples, Tokenizer.load(base), 0), config, examples


def ours(base: Path, data: Path, steps: int) -> dict[str, Any]:
    """Examples a second of our loop, packed as the recipe "instruct" packs them."""
    from preceptor.core.interrupt import Stop
    from preceptor.objectives.batch import Batches
    from preceptor.train.length import Length
    from preceptor.train.loop import fit
    from preceptor.train.optim import Optimizer
    from preceptor.train.placement import prepared
    from preceptor.train.state import TrainState, Validation

    learner, config, examples = _learner(base, data, steps + WARMUP_STEPS)
    objective = learner.read(examples).objective
    rows = config.batch_tokens // config.context_length
    batches = Batches(objective, 0, rows, rows)
    engine = prepared(learner.model, config, steps + WARMUP_STEPS)
    marks: list[float] = []
    fit(
        config,
        engine,
        Optimizer(engine.parameters, config.optimizer),
        batches,
        TrainState(),
        length=Length.of_steps(steps + WARMUP_STEPS),
        validate=lambda: Validation(0.0, 0.0),
        save=lambda state: None,
        hooks=[lambda record, seconds: marks.append(time.perf_counter())],
        stop=Stop(),
    )
    timed = range(WARMUP_STEPS, steps + WARMUP_STEPS)
    count = sum(len(objective.plan.row(row)) for step in timed for row in batches.rows(step))
    return {"examples_per_second": count / (marks[-1] - marks[WARMUP_STEPS - 1])}


def our_losses(base: Path, data: Path, steps: int) -> dict[str, Any]:
    """The losses of our optimizer and model on the same examples a step as the peer."""
    from dataclasses import replace

    from preceptor.parallel.engine import place
    from preceptor.train.optim import Optimizer

    learner, config, examples = _learner(base, data, steps)
    engine = place(learner.model)
    optimizer = Optimizer(engine.parameters, config.optimizer)
    losses = []
    for step in range(steps):
        some = examples.examples[step * EXAMPLES_A_STEP : (step + 1) * EXAMPLES_A_STEP]
        objective = learner.read(replace(examples, examples=some)).objective
        found = objective.loss(learner.model, objective.collate(range(objective.num_rows)))
        found.total.backward()
        engine.scale_and_clip(1 / found.tokens, config.max_grad_norm, None)
        optimizer.step(1.0)
        engine.clear_gradients()
        losses.append(float(found.total.detach()) / found.tokens)
    return {"losses": losses}


def figures_of(side: str, base: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a side comes to, in this process."""
    if side == "ours":
        return ours(base, arguments.data, arguments.steps)
    if side == "our losses":
        return our_losses(base, arguments.data, arguments.loss_steps)
    if side == "their losses":
        return tune(base, arguments.data, packing=False, steps=arguments.loss_steps, in_order=True)
    return tune(base, arguments.data, packing=side == "trl, packed", steps=arguments.steps + WARMUP_STEPS)


def measured(side: str, base: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of a side, from a process of its own."""
    command = [sys.executable, __file__, "--data", str(arguments.data), "--trl", str(arguments.trl)]
    command += ["--base", str(base), "--steps", str(arguments.steps), "--loss-steps", str(arguments.loss_steps)]
    path = f"{arguments.trl}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": path, "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run([*command, "--side", side], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed: {done.stderr.strip()[-1500:]}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    """Print examples a second with ratios, and by how much the losses differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trl", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--loss-steps", type=int, default=50)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=(*SIDES, "our losses", "their losses"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(figures_of(arguments.side, arguments.base, arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make_base(base, arguments.data)
        rates = {side: measured(side, base, arguments)["examples_per_second"] for side in SIDES}
        for side, rate in rates.items():
            print(f"{side:14s}{rate:8.2f} examples a second{'':4s}{rates['ours'] / rate:6.2f} times as many by ours")
        said = [measured(side, base, arguments)["losses"] for side in ("our losses", "their losses")]
    differences = [abs(ours - theirs) for ours, theirs in zip(*said, strict=True)]
    print(
        f"losses of {len(differences)} steps differ by {max(differences):.1e} at most; last {said[0][-1]:.4f}", end=""
    )
    print(f" and {said[1][-1]:.4f}")


if __name__ == "__main__":
    main()
