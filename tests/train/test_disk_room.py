"""Room on the disk is asked for before the first step, by what a checkpoint really takes."""

from dataclasses import replace

import pytest
import torch
from toy_training import CONFIG, MODEL, Toy

from preceptor.core.errors import OutputError
from preceptor.core.interrupt import Stop
from preceptor.models.decoder import build
from preceptor.objectives.batch import Batches
from preceptor.train import disk_room
from preceptor.train.disk_room import checkpoint_bytes, require_room
from preceptor.train.memory_config import MemoryConfig
from preceptor.train.optim_config import AveragingConfig, OptimizerConfig
from preceptor.train.session import checkpoints_of, no_cost, train_model

WIDE = replace(MODEL, hidden_size=128, intermediate_size=256, head_dim=64)
IN_8_BITS = {"memory": MemoryConfig(optimizer_bits=8)}
SETTINGS = {
    "muon": OptimizerConfig(),
    "adamw": OptimizerConfig(kind="adamw"),
    "adam": OptimizerConfig(kind="adam"),
    "adafactor": OptimizerConfig(kind="adafactor"),
    "lion": OptimizerConfig(kind="lion"),
    "rmsprop": OptimizerConfig(kind="rmsprop"),
    "rmsprop-without-momentum": OptimizerConfig(kind="rmsprop", momentum=0.0),
    "sgd": OptimizerConfig(kind="sgd"),
    "sgd-without-momentum": OptimizerConfig(kind="sgd", momentum=0.0),
}
MORE = {"plain": {}, "averaged": {"averaging": AveragingConfig(kind="ema")}}


def train(folder, config, model, num_steps=4):
    toy = Toy()
    return train_model(
        config=config,
        model=model,
        batches=Batches(toy, 0, 4, 4),
        validation=toy,
        num_steps=num_steps,
        checkpoints=checkpoints_of(config, folder, "key"),
        metrics=folder.parent / "metrics.jsonl",
        stop=Stop(),
        read_cost=no_cost,
        label="train",
    )


def model_of(config):
    return build(config, torch.Generator().manual_seed(0))


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
@pytest.mark.parametrize("optimizer", SETTINGS.values(), ids=SETTINGS)
def test_a_checkpoint_takes_what_was_foreseen(optimizer, more, tmp_path):
    config, model = replace(CONFIG, optimizer=optimizer, **more), model_of(WIDE)
    foreseen = checkpoint_bytes(model, config)
    train(tmp_path / "saves", config, model)
    assert bytes_in(tmp_path / "saves" / "step-0000003") == pytest.approx(foreseen, rel=0.03)


def test_a_checkpoint_of_states_in_8_bits_takes_what_was_foreseen(tmp_path):
    config, model = replace(CONFIG, optimizer=OptimizerConfig(kind="adamw"), **IN_8_BITS), model_of(WIDE)
    foreseen = checkpoint_bytes(model, config)
    train(tmp_path / "saves", config, model)
    assert bytes_in(tmp_path / "saves" / "step-0000003") == pytest.approx(foreseen, rel=0.15)


def test_weights_that_are_not_trained_take_no_room():
    model = model_of(WIDE)
    model.requires_grad_(False)
    assert checkpoint_bytes(model, CONFIG) == 0


def test_two_must_fit_at_first_and_one_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_room, "free_bytes", lambda folder: 15_000_000)
    require_room(tmp_path, 7_500_000)
    with pytest.raises(OutputError, match=r"15\.0 MB free, and a checkpoint takes about 7\.6 MB: 2 of them") as error:
        require_room(tmp_path, 7_600_000)
    assert "--out" in error.value.remedy
    (tmp_path / "step-0000003").mkdir()
    require_room(tmp_path, 15_000_000)
    with pytest.raises(OutputError, match="1 of them must fit"):
        require_room(tmp_path, 15_100_000)


def test_where_the_disk_cannot_be_asked_training_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_room, "free_bytes", lambda folder: None)
    require_room(tmp_path, 1 << 60)


def test_training_is_refused_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_room, "free_bytes", lambda folder: 1000)
    with pytest.raises(OutputError, match="2 of them must fit"):
        train(tmp_path / "saves", CONFIG, model_of(MODEL))
    assert not list(tmp_path.iterdir())
