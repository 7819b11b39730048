"""A fine-tuning as the stages of a run make it, by whoever was started together."""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from tuning import pipeline

from preceptor.parallel.team import Team


def tuned(recipe, base, examples, out, changes):
    """The losses of the steps and of the validations, and the adapter's weights."""
    team = Team.join(60.0)
    made = pipeline(recipe, Path(base), Path(examples), Path(out), *changes, team=team)
    adapter = made.adapter().path
    team.leave()
    (metrics,) = (Path(out) / "metrics").glob("finetune-????????????.jsonl")
    steps = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    facts = {
        "losses": [step["loss"] for step in steps],
        "validation": [step["validation_loss"] for step in steps if "validation_loss" in step],
    }
    return facts, load_file(adapter / "adapter_model.safetensors")
