"""Fine-tuning on its way: stopped and gone on with, ended early, and with rates of its own for some weights."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from tuning import make_encoder, pipeline, write_rows

from preceptor.core.errors import ConfigError, Interrupted
from preceptor.core.interrupt import Stop
from preceptor.models.interchange import load_model

PREFIX = ("finetuning.adapter.kind=prefix", "finetuning.adapter.num_virtual_tokens=4")
FULL = ("finetuning.adapter.kind=full",)
LORA = ("finetuning.adapter.dropout=0.1",)
WEIGHTS = {PREFIX: "adapter_model.safetensors", LORA: "adapter_model.safetensors", FULL: "model.safetensors"}


class StopAfter(Stop):
    """Asks to stop when it has been looked at so many times."""

    def __init__(self, looks: int):
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        if self.looks <= 0:
            self.signal = signal.SIGTERM
        return self.signal is not None


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("bases") / "encoder")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("examples"), "classify")


@pytest.mark.parametrize("kind", [LORA, PREFIX, FULL])
def test_stopped_and_gone_on_with_it_is_the_same_to_the_bit(base, examples, tmp_path, kind):
    overrides = (*kind, "finetuning.duration=6 steps", "finetuning.checkpoint_every_steps=2")
    straight = pipeline("classify", base, examples, tmp_path / "straight", *overrides).adapter()
    with pytest.raises(Interrupted):
        pipeline("classify", base, examples, tmp_path / "stopped", *overrides, stop=StopAfter(3)).adapter()
    resumed = pipeline("classify", base, examples, tmp_path / "stopped", *overrides)
    again = resumed.adapter()
    lines = (next((tmp_path / "stopped/metrics").glob("finetune-*[0-9a-f].jsonl"))).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for name in {WEIGHTS[kind], "heads.safetensors"} & {path.name for path in straight.path.iterdir()}:
        assert again.file(name).read_bytes() == straight.file(name).read_bytes()
    assert again.id == straight.id


@pytest.mark.parametrize("kind", [LORA, FULL])
def test_the_best_weights_are_kept_where_training_stops_early(base, examples, tmp_path, kind):
    # At such a rate every validation after the first is worse, or as bad.
    early = (
        *("finetuning.early_stopping.patience=2", "finetuning.validation_every_steps=1"),
        *("finetuning.optimizer.learning_rate=0.5", "finetuning.duration=12 steps"),
        *("finetuning.schedule.kind=constant", "finetuning.schedule.warmup_steps=0"),
    )
    made = pipeline("classify", base, examples, tmp_path / "early", *kind, *early).adapter()
    curve = json.loads(made.file("curve.json").read_text())
    losses = [point["validation_loss"] for point in curve if "validation_loss" in point]
    best = losses.index(min(losses)) + 1
    assert len(losses) < 12 and made.facts["best_step"] == best
    shorter = [each for each in early if "duration" not in each]
    again = pipeline(
        "classify", base, examples, tmp_path / "short", *kind, *shorter, f"finetuning.duration={best} steps"
    )
    ours, theirs = (load_file(each.file(WEIGHTS[kind])) for each in (made, again.adapter()))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def changed(made, base):
    """Which weights of the base are no longer what they were."""
    before, after = load_model(base).state_dict(), load_model(made.path).state_dict()
    return {name for name, tensor in before.items() if not torch.equal(after[name][: len(tensor)], tensor)}


GROUPS = (
    'finetuning.optimizer.groups=[{pattern="embed_*", frozen=true}, {pattern="layers.0.*", from_step=3}, '
    '{pattern="layers.1.*", learning_rate_scale=0.5}]'
)


def test_layers_are_frozen_and_unfrozen_one_after_another(base, examples, tmp_path):
    two = pipeline("classify", base, examples, tmp_path / "two", *FULL, GROUPS, "finetuning.duration=2 steps")
    four = pipeline("classify", base, examples, tmp_path / "four", *FULL, GROUPS, "finetuning.duration=5 steps")
    after_two, after_four = changed(two.adapter(), base), changed(four.adapter(), base)
    assert not any(name.startswith(("embed_", "layers.0.")) for name in after_two)
    assert any(name.startswith("layers.1.") for name in after_two)
    assert any(name.startswith("layers.0.") for name in after_four)
    assert not any(name.startswith("embed_") for name in after_four)


def test_layers_have_rates_of_their_own_and_adapters_too(base, examples, tmp_path):
    one = ("finetuning.duration=1 steps", "finetuning.schedule.warmup_steps=0", "finetuning.schedule.kind=constant")
    plain = pipeline("classify", base, examples, tmp_path / "plain", *one).adapter()
    groups = (
        'finetuning.optimizer.groups=[{pattern="*layers.0.*", frozen=true}, '
        '{pattern="*lora_B", learning_rate_scale=0.5}]'
    )
    slower = pipeline("classify", base, examples, tmp_path / "slower", *one, groups).adapter()
    ours, theirs = (load_file(each.file("adapter_model.safetensors")) for each in (plain, slower))
    in_b = [name for name in ours if ".lora_B." in name]
    assert in_b
    for name in in_b:
        share = 0.0 if ".layer.0." in name else 0.5
        torch.testing.assert_close(theirs[name], ours[name] * share, rtol=1e-4, atol=1e-9)
    layered = pipeline(
        "classify", base, examples, tmp_path / "layered", *FULL, *one, "finetuning.optimizer.layer_decay=0.5"
    ).adapter()
    before, after = load_model(base).state_dict(), load_model(layered.path).state_dict()
    moved = [
        float(
            (after[f"layers.{layer}.mlp.down_proj.weight"] - before[f"layers.{layer}.mlp.down_proj.weight"]).abs().max()
        )
        for layer in (0, 1)
    ]
    # The first step of Adam is as large as the rate.
    assert moved[0] == pytest.approx(moved[1] / 2, rel=0.01)


def test_a_group_that_names_no_weight_is_told(base, examples, tmp_path):
    groups = 'finetuning.optimizer.groups=[{pattern="*.layer.0.*", frozen=true}]'
    with pytest.raises(ConfigError, match="fits no weight"):
        pipeline("classify", base, examples, tmp_path / "out", groups).adapter()
