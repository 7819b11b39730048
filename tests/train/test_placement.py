"""Precision, memory and compiling: what is promised of each, on a CPU."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from toy_training import CONFIG, MODEL, Toy, parts, train

from preceptor.core.errors import ConfigError
from preceptor.models.decoder import build
from preceptor.nn.float8 import Float8Linear, to_float8
from preceptor.parallel.engine import moved, place
from preceptor.train.activations import blocks_of
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.optim import Optimizer
from preceptor.train.placement import pays_to_compile, prepared, rows_that_fit
from preceptor.train.precision_config import PrecisionConfig
from preceptor.train.state import TrainState
from preceptor.train.step import LossScale, StepGradients


def trained(kind, num_steps=12, dtype=torch.float32, config=CONFIG, **more):
    config = replace(config, precision=PrecisionConfig(kind=kind, **more))
    engine = place(build(replace(MODEL, dropout=0.0), torch.Generator().manual_seed(0)), dtype=dtype)
    _, _, batches = parts(config)
    optimizer = Optimizer(engine.parameters, config.optimizer)
    return train(config, engine, optimizer, batches, TrainState(), num_steps), engine, optimizer


@pytest.mark.parametrize("kind, dtype", [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_mixed_precision_learns_as_float32_does_and_keeps_its_weights_in_it(kind, dtype):
    exact, _, _ = trained("float32")
    mixed, engine, optimizer = trained(kind, dtype=dtype)
    assert all(p.dtype == torch.float32 for p in engine.parameters.values())
    state = optimizer.state_tensors()
    del state["num_tensors"]
    assert all(t.dtype == torch.float32 for t in state.values())
    ours, theirs = ([record["loss"] for record in state.curve] for state in (mixed, exact))
    assert ours != theirs, "the products are in another precision"
    assert ours == pytest.approx(theirs, rel=0.02)


def test_a_step_that_overflows_is_left_out_and_halves_the_scale_which_grows_again():
    state, engine, _ = trained("float16", 30, torch.float16, loss_scale=2.0**32)
    skipped = [bool(record.get("skipped")) for record in state.curve]
    assert skipped[0] and not skipped[-1]
    assert state.skipped_in_a_row == 0 and not state.rollbacks, "an overflow is no fault of the data"
    assert state.untrained[0][0] == 0 and len(state.recent_losses) == skipped.count(False)
    assert state.loss_scale == 2.0**32 / CONFIG.batch_tokens / 2 ** skipped.count(True)
    assert all(torch.isfinite(p).all() for p in engine.parameters.values())


def test_the_scale_is_doubled_after_so_many_steps_without_overflow():
    state = TrainState()
    scale = LossScale(PrecisionConfig(kind="float16", loss_scale=64.0, loss_scale_growth_steps=2), 64, state)
    sound, bad = StepGradients(1.0, 9, 1.0), StepGradients(1.0, 9, float("inf"), overflowed=True)
    seen = []
    for step in (sound, sound, sound, bad, sound, sound):
        assert scale.update(step) is step.overflowed
        seen.append(scale.value)
    assert seen == [1, 2, 2, 1, 1, 2]
    assert LossScale(PrecisionConfig(kind="bfloat16"), 64, TrainState()).value == 1.0


def test_the_scale_changes_no_update_where_nothing_is_lost():
    engine, _, batches = parts(dropout=0.0)
    engine.forward_backward(batches.objective, batches.at(0))
    plain = engine.scale_and_clip(0.01, None)
    expected = [gradient.clone() for gradient in engine.gradients()]
    engine.clear_gradients()
    engine.loss_scale = 1024.0
    engine.forward_backward(batches.objective, batches.at(0))
    assert engine.scale_and_clip(0.01, None) == pytest.approx(plain, rel=1e-6)
    for ours, theirs in zip(engine.gradients(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_products_in_8_bits_are_near_and_their_gradients_too():
    torch.manual_seed(0)
    exact = torch.nn.Linear(64, 48)
    rough = torch.nn.Linear(64, 48)
    rough.load_state_dict(exact.state_dict())
    odd = torch.nn.Linear(10, 48)
    assert to_float8([rough, odd]) == 1 and isinstance(rough, Float8Linear) and type(odd) is torch.nn.Linear
    rows = torch.randn(4, 8, 64, requires_grad=True)
    again = rows.detach().clone().requires_grad_()
    weights = torch.randn(4, 8, 48)
    (exact(rows) * weights).sum().backward()
    (rough(again) * weights).sum().backward()
    assert rough(again).dtype == torch.bfloat16 and rough(again).shape == (4, 8, 48)
    pairs = [(rough(again), exact(rows)), (again.grad, rows.grad), (rough.weight.grad, exact.weight.grad)]
    for ours, theirs in pairs:
        assert float((ours.detach().float() - theirs.detach()).norm() / theirs.detach().norm()) < 0.07
    assert rough.weight.grad.dtype == torch.float32


def test_rows_that_do_not_fit_8_bits_are_multiplied_as_they_are():
    layer = torch.nn.Linear(16, 16)
    rows = torch.randn(3, 16)
    expected = layer(rows)
    to_float8([layer])
    assert torch.equal(layer(rows), expected)


def test_what_this_machine_lacks_is_refused():
    model = build(MODEL, torch.Generator().manual_seed(0))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            prepared(model, replace(CONFIG, device="cuda"), 10)
    with pytest.raises(ConfigError, match=r"float8.*cannot compute"):
        prepared(model, replace(CONFIG, device="cpu", precision=PrecisionConfig(kind="float8")), 10)


def test_a_batch_is_moved_whole():
    _, _, batches = parts()
    batch = batches.at(0)[0]
    there = moved(batch, torch.device("meta"))
    assert there.labels_BT.device.type == there.inputs.segments_BT.device.type == "meta"
    assert batch.labels_BT.device.type == "cpu" and there.inputs.before is None


class Runs(Toy):
    """Runs out of memory when more rows than some are computed at once."""

    def __init__(self, largest):
        super().__init__()
        self.largest = largest

    def loss(self, model, batch):
        if len(batch.labels_BT) > self.largest:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you asked for 9 bytes")
        return super().loss(model, batch)


def test_a_step_that_runs_out_of_memory_is_taken_anew_in_smaller_parts(tmp_path):
    engine, optimizer, batches = parts(objective=Runs(1), dropout=0.0)
    told = []
    checkpoints = Checkpoints(tmp_path, "key", 2)
    state = train(
        CONFIG,
        engine,
        optimizer,
        batches,
        TrainState(),
        4,
        save=lambda state: checkpoints.save(engine, optimizer, state),
        tell=lambda kind, text, **facts: told.append((kind, facts)),
    )
    assert told == [("memory", {"step": 1, "rows": 2}), ("memory", {"step": 1, "rows": 1})]
    assert state.rows_per_microbatch == 1 and not state.untrained
    # The update is that of micro-batches of one row from the start, and what is resumed goes on with them.
    other, rule, batches = parts(replace(CONFIG, micro_batch_tokens=16), dropout=0.0)
    train(CONFIG, other, rule, batches, TrainState(), 4)
    assert all(torch.equal(p, engine.parameters[name]) for name, p in other.parameters.items())
    assert checkpoints.resume(other, rule).rows_per_microbatch == 1


def test_one_row_that_does_not_fit_is_an_error():
    engine, optimizer, batches = parts(objective=Runs(0))
    with pytest.raises(RuntimeError, match="allocate"):
        train(CONFIG, engine, optimizer, batches, TrainState(), 4)


def test_the_largest_micro_batch_that_fits_is_found(monkeypatch, capsys):
    import preceptor.train.placement as module

    engine, _, batches = parts()
    monkeypatch.setattr(module, "free_memory", lambda device: 1 << 40)
    assert rows_that_fit(engine, batches) == 4
    monkeypatch.setattr(module, "free_memory", lambda device: 1)
    assert rows_that_fit(engine, batches) == 1
    assert "micro-batches of 1 of the 4 rows" in capsys.readouterr().err
    assert not engine.gradients()


def test_real_memory_that_runs_out_is_survived(tmp_path):
    script = """
        import resource
        import torch
        from preceptor.models.decoder import build
        from preceptor.models.decoder_config import DecoderConfig
        from preceptor.parallel.engine import place
        from preceptor.train.optim import Optimizer
        from preceptor.train.state import TrainState
        from toy_training import CONFIG, MODEL, parts, train
        from dataclasses import replace

        torch.set_num_threads(1)
        _, _, batches = parts()
        model = replace(MODEL, vocab_size=40, hidden_size=64, intermediate_size=1 << 18, num_hidden_layers=1)
        engine = place(build(model, torch.Generator().manual_seed(0)))
        optimizer = Optimizer(engine.parameters, CONFIG.optimizer)
        used = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize"))
        # Enough for gradients, states and a row, and not for four.
        resource.setrlimit(resource.RLIMIT_AS, (used + 450_000_000,) * 2)
        events = []
        config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, kind="sgd", momentum=0.0))
        optimizer = Optimizer(engine.parameters, config.optimizer)
        tell = lambda kind, text, **facts: events.append(kind)
        state = train(config, engine, optimizer, batches, TrainState(), 2, tell=tell)
        print(state.step, state.rows_per_microbatch, set(events))
    """
    folder = __file__.rsplit("/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr
    step, rows, events = done.stdout.strip().split(" ", 2)
    assert step == "2" and 1 <= int(rows) < 4 and events == "{'memory'}"


def test_compiling_pays_in_long_runs_only(monkeypatch):
    import preceptor.train.placement as module

    monkeypatch.setattr(module.shutil, "which", lambda name: "/usr/bin/" + name)
    model = build(MODEL)
    assert not pays_to_compile(CONFIG, model, 100)
    assert pays_to_compile(CONFIG, model, 10**12)
    assert pays_to_compile(replace(CONFIG, duration="2 seconds"), model, 0) is False
    assert pays_to_compile(replace(CONFIG, duration="100000 seconds"), model, 0)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert not pays_to_compile(CONFIG, model, 10**12), "there is no compiler"


def test_every_family_has_layers_to_compile():
    from preceptor.models.encoder_decoder import build as build_encoder_decoder
    from preceptor.models.encoder_decoder_config import EncoderDecoderConfig

    assert len(blocks_of(build(MODEL))) == 2
    config = EncoderDecoderConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_decoder_layers=3)
    assert len(blocks_of(build_encoder_decoder(config))) == 5
