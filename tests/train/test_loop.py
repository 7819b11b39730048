"""The loop: one update whatever the micro-batches, guards, exact resume, retention."""

import json
from dataclasses import replace

import pytest
import torch
from toy_training import CONFIG, MODEL, Stop, parts, train

from preceptor.core.errors import ArtifactError, Interrupted
from preceptor.models.decoder import build
from preceptor.nn.losses import IGNORED
from preceptor.parallel.engine import place
from preceptor.train.averaging import WeightAverage
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.hooks import MetricsLog
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import AveragingConfig, EarlyStoppingConfig, OptimizerConfig
from preceptor.train.state import StepRecord, TrainState, Validation


def supervised_tokens(batch):
    return int((batch.labels_BT != IGNORED).sum())


@pytest.mark.parametrize("micro", [16, 32])
def test_micro_batches_of_uneven_counts_give_the_same_gradient(micro):
    gradients = []
    _, _, batches = parts(replace(CONFIG, micro_batch_tokens=micro))
    # A step whose micro-batches differ in their number of supervised tokens, where means of means would be wrong.
    step = next(step for step in range(50) if len(set(map(supervised_tokens, batches.at(step)))) > 1)
    for size in (64, micro):
        engine, _, batches = parts(replace(CONFIG, micro_batch_tokens=size), dropout=0.0)
        engine.model.double()
        tokens = engine.forward_backward(batches.objective, batches.at(step)).tokens
        engine.scale_and_clip(1 / tokens, None)
        gradients.append([gradient.clone() for gradient in engine.gradients()])
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, summed, rtol=1e-5, atol=1e-7)


def test_clipping_equals_pytorchs():
    engine, _, batches = parts()
    engine.forward_backward(batches.objective, batches.at(0))
    expected = [gradient.clone() * 0.5 for gradient in engine.gradients()]
    norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in expected]))
    assert engine.scale_and_clip(0.5, 0.1) == pytest.approx(float(norm), rel=1e-5)
    after = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in engine.gradients()]))
    assert float(after) == pytest.approx(0.1, rel=1e-5)


def test_clipping_by_value_equals_pytorchs_and_comes_before_the_norm():
    engine, _, batches = parts()
    engine.forward_backward(batches.objective, batches.at(0))
    expected = [torch.nn.Parameter(gradient.clone()) for gradient in engine.gradients()]
    for parameter in expected:
        parameter.grad = parameter.detach() * 0.5
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in expected])
    torch.nn.utils.clip_grad_value_(expected, 0.01)
    torch.nn.utils.clip_grad_norm_(expected, 0.05)
    assert engine.scale_and_clip(0.5, 0.05, 0.01) == pytest.approx(float(norm), rel=1e-5)
    for ours, theirs in zip(engine.gradients(), expected, strict=True):
        torch.testing.assert_close(ours, theirs.grad, rtol=1e-4, atol=1e-8)


def test_each_epoch_visits_every_row_once_in_its_own_order():
    _, _, batches = parts()
    rows = [row for step in range(batches.objective.num_rows) for row in batches.rows(step)]
    size = batches.objective.num_rows
    first, second = rows[:size], rows[size : 2 * size]
    assert sorted(first) == sorted(second) == list(range(size))
    assert first != second


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("interrupted_at", [1, 4, 8])
def test_stopping_and_going_on_is_bit_identical(tmp_path, kind, interrupted_at):
    config = replace(CONFIG, optimizer=OptimizerConfig(kind=kind))
    engine, optimizer, batches = parts(config)
    straight = train(config, engine, optimizer, batches, TrainState(), 10)

    first_engine, first_optimizer, batches = parts(config)
    checkpoints, stop = Checkpoints(tmp_path, "key", 2), Stop()

    def interrupt(record, _):
        stop.requested = record.step == interrupted_at

    with pytest.raises(Interrupted):
        train(
            config,
            first_engine,
            first_optimizer,
            batches,
            TrainState(),
            10,
            save=lambda state: checkpoints.save(first_engine, first_optimizer, state),
            hooks=[interrupt],
            stop=stop,
        )
    second_engine, second_optimizer, batches = parts(config)
    state = checkpoints.resume(second_engine, second_optimizer)
    assert state.step == interrupted_at
    resumed = train(config, second_engine, second_optimizer, batches, state, 10)
    assert all(torch.equal(p, second_engine.parameters[name]) for name, p in engine.parameters.items())
    ours, theirs = optimizer.state_tensors(), second_optimizer.state_tensors()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert resumed.curve == straight.curve


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, capsys):
    engine, optimizer, batches = parts()
    checkpoints = Checkpoints(tmp_path, "key", 3)
    train(CONFIG, engine, optimizer, batches, TrainState(), 7, save=lambda s: checkpoints.save(engine, optimizer, s))
    weights = tmp_path / "step-0000006" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again, fresh, _ = parts()
    assert checkpoints.resume(again, fresh).step == 3
    assert "step-0000006" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    engine, optimizer, _ = parts()
    Checkpoints(tmp_path, "one", 2).save(engine, optimizer, TrainState(step=3))
    assert Checkpoints(tmp_path, "another", 2).resume(engine, optimizer).step == 0


def test_only_the_newest_checkpoints_stay(tmp_path):
    engine, optimizer, batches = parts()
    checkpoints = Checkpoints(tmp_path, "key", 2)
    train(CONFIG, engine, optimizer, batches, TrainState(), 14, save=lambda s: checkpoints.save(engine, optimizer, s))
    assert sorted(folder.name for folder in tmp_path.glob("step-*")) == ["step-0000009", "step-0000012"]


def test_weights_of_another_model_are_refused(tmp_path):
    engine, optimizer, _ = parts()
    Checkpoints(tmp_path, "key", 2).save(engine, optimizer, TrainState(step=3))
    other = place(build(replace(MODEL, num_hidden_layers=1)))
    with pytest.raises(ArtifactError, match="another model"):
        Checkpoints(tmp_path, "key", 2).resume(other, Optimizer(other.parameters, CONFIG.optimizer))


def test_a_full_disk_is_told_and_training_goes_on_with_the_old_checkpoint(tmp_path, capsys, monkeypatch):
    engine, optimizer, batches = parts()
    checkpoints = Checkpoints(tmp_path, "key", 2)
    saved = train(
        CONFIG, engine, optimizer, batches, TrainState(), 4, save=lambda s: checkpoints.save(engine, optimizer, s)
    )
    import preceptor.train.checkpoint as module

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    state = train(CONFIG, engine, optimizer, batches, saved, 7, save=lambda s: checkpoints.save(engine, optimizer, s))
    assert state.step == 7
    assert "could not be saved" in capsys.readouterr().err
    monkeypatch.undo()
    assert checkpoints.resume(*parts()[:2]).step == 3


def test_the_metrics_of_a_killed_run_go_on_where_its_checkpoint_stands(tmp_path):
    path = tmp_path / "metrics" / "run.jsonl"
    log = MetricsLog(path, 0)
    for step in range(1, 6):
        log(StepRecord(step=step, tokens=step, loss=1.0, learning_rate=0.1, grad_norm=1.0, skipped=False), 0.1)
    path.write_text(path.read_text() + '{"step": 6, "los')
    MetricsLog(path, 3)(StepRecord(4, 4, 0.5, 0.1, 1.0, False), 0.1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and lines[-1]["loss"] == 0.5


def losses(values):
    """A validation that gives these losses one after another."""
    given = iter(values)
    return lambda: Validation(next(given), 0.0)


def train_with(config, checkpoints, validate, num_steps=40, stop_at=0):
    """What training under early stopping leaves: the state, and the engine."""
    engine, optimizer, batches = parts(config)
    average, stop = WeightAverage(config.averaging, engine.parameters), Stop()
    state = checkpoints.resume(engine, optimizer, average)

    def interrupt(record, _):
        stop.requested = record.step == stop_at

    state = train(
        config,
        engine,
        optimizer,
        batches,
        state,
        num_steps,
        validate=validate,
        save=lambda state: checkpoints.save(engine, optimizer, state, average),
        keep_best=lambda state: checkpoints.keep_best(engine, state.best_step),
        average=average,
        hooks=[interrupt],
        stop=stop,
    )
    return state, engine


def test_training_stops_when_validation_gets_no_better_and_the_best_weights_come_back(tmp_path):
    config = replace(CONFIG, early_stopping=EarlyStoppingConfig(patience=2, min_delta=0.1))
    checkpoints = Checkpoints(tmp_path, "key", 2)
    # Every fourth step: better, better, not enough better, worse.
    state, engine = train_with(config, checkpoints, losses([3.0, 2.0, 1.95, 2.5, 0.0]))
    assert (state.step, state.best_step, state.best) == (16, 8, 2.0)
    last = {name: p.detach().clone() for name, p in engine.parameters.items()}
    assert checkpoints.restore_best(engine, 8)
    assert [folder.name for folder in tmp_path.glob("best-*")] == ["best-0000008"]
    alone, optimizer, batches = parts(CONFIG)
    stop = Stop()

    def interrupt(record, _):
        stop.requested = record.step == 8

    with pytest.raises(Interrupted):
        train(CONFIG, alone, optimizer, batches, TrainState(), 40, hooks=[interrupt], stop=stop)
    assert all(torch.equal(p, alone.parameters[name]) for name, p in engine.parameters.items())
    assert not all(torch.equal(last[name], p) for name, p in engine.parameters.items())


def test_accuracy_is_better_when_it_is_higher(tmp_path):
    config = replace(CONFIG, early_stopping=EarlyStoppingConfig(patience=1, metric="accuracy"))
    given = iter([0.1, 0.4, 0.3])
    state, _ = train_with(config, Checkpoints(tmp_path, "key", 2), lambda: Validation(1.0, next(given)))
    assert (state.step, state.best_step) == (12, 8)


def test_best_weights_that_are_torn_are_told_and_the_last_ones_stay(tmp_path, capsys):
    engine, _, _ = parts()
    checkpoints = Checkpoints(tmp_path, "key", 2)
    checkpoints.keep_best(engine, 4)
    weights = tmp_path / "best-0000004" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not checkpoints.restore_best(engine, 4)
    assert "cannot be restored" in capsys.readouterr().err


@pytest.mark.parametrize("averaging", [AveragingConfig(kind="ema"), AveragingConfig(kind="swa", start_fraction=0.3)])
@pytest.mark.parametrize("interrupted_at", [1, 5, 9])
def test_averages_and_the_best_are_kept_through_a_stop(tmp_path, averaging, interrupted_at):
    config = replace(CONFIG, averaging=averaging, early_stopping=EarlyStoppingConfig(patience=3))
    values = [3.0, 2.0, 2.5]
    straight, engine = train_with(config, Checkpoints(tmp_path / "a", "key", 2), losses(values), 12)
    checkpoints = Checkpoints(tmp_path / "b", "key", 2)
    with pytest.raises(Interrupted):
        train_with(config, checkpoints, losses(values), 12, stop_at=interrupted_at)
    resumed, again = train_with(config, checkpoints, losses(values[interrupted_at // 4 :]), 12)
    assert resumed.curve == straight.curve and resumed.best_step == straight.best_step == 8
    assert all(torch.equal(p, again.parameters[name]) for name, p in engine.parameters.items())


def test_an_exponential_average_is_what_its_formula_says():
    weight = torch.nn.Parameter(torch.zeros(3))
    average, expected = WeightAverage(AveragingConfig(kind="ema", decay=0.5), {"w": weight}), None
    for step in range(1, 9):
        with torch.no_grad():
            weight.copy_(torch.randn(3, generator=torch.Generator().manual_seed(step)))
        average.update(step, 8)
        decay = min(0.5, step / (9 + step))
        expected = weight.detach().clone() if expected is None else decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(average.tensors["w"], expected)
    kept = weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(weight, kept)


def test_the_average_of_the_last_part_is_a_mean():
    weight = torch.nn.Parameter(torch.zeros(1))
    average = WeightAverage(AveragingConfig(kind="swa", start_fraction=0.5, every_steps=2), {"w": weight})
    for step in range(1, 11):
        with torch.no_grad():
            weight.fill_(float(step))
        average.update(step, 10)
    assert average.count == 3 and average.tensors["w"].item() == pytest.approx((6 + 8 + 10) / 3)
    average.take()
    assert weight.item() == pytest.approx(8.0)


def test_without_a_kind_nothing_is_averaged():
    weight = torch.nn.Parameter(torch.ones(1))
    average = WeightAverage(AveragingConfig(), {"w": weight})
    average.update(1, 2)
    average.take()
    assert average.state_tensors() == {} and weight.item() == 1.0
