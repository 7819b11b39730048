"""Small recipes that are trained by processes started from the command line."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"]
STEPS = 30


def documents(folder):
    """A folder of documents, as what a recipe says of it."""
    folder.mkdir()
    for number in range(40):
        words = (f"{WORDS[(place * (number + 3)) % 12]} {place * number % 97}" for place in range(300))
        (folder / f"{number}.txt").write_text(f"Page {number}: " + " ".join(words))
    return f'data.sources=[{{path="{folder}", licence="MIT"}}]'


def command(source, out, *changes, stage="pretrain"):
    """A command that trains a very small model."""
    return [
        *(sys.executable, "-m", "preceptor", stage, "tiny", source),
        "tokenizer.vocab_size=300",
        "model.hidden_size=32",
        "model.num_hidden_layers=2",
        f"pretraining.duration={STEPS} steps",
        "pretraining.batch_tokens=1024",
        "pretraining.optimizer.kind=adamw",
        "pretraining.optimizer.learning_rate=1e-3",
        "pretraining.checkpoint_every_steps=5",
        "pretraining.validation_tokens=512",
        'footprint.method="clock"',
        *changes,
        *("--out", str(out)),
    ]


def environment():
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return kept | {"OMP_NUM_THREADS": "1"}


def finished(words, **given):
    """A command that has ended, with what it said."""
    return subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=240, env=environment() | given.pop("env", {})
    )


def started(words, said):
    """A command that goes on, whose words go to a file."""
    with Path(said).open("w") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=environment())


def steps_done(out):
    logs = list((out / "metrics").glob("pretrain-*.jsonl"))
    return len(logs[0].read_bytes().splitlines()) if logs else 0


def wait_for_step(process, out, step, seconds=120):
    """Wait until a training has done so many steps."""
    end = time.monotonic() + seconds
    while steps_done(out) < step:
        assert process.poll() is None, "it has ended before"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


def ranks(process):
    """The processes that a launcher has started, the first of them first."""
    found = psutil.Process(process.pid).children()
    return sorted((child for child in found if "RANK" in child.environ()), key=lambda each: int(each.environ()["RANK"]))


def artifact(out, kind="checkpoint"):
    (folder,) = (out / "artifacts" / kind).iterdir()
    return folder


def weights(out, kind="checkpoint"):
    from safetensors.torch import load_file

    return load_file(artifact(out, kind) / "model.safetensors")
