"""The guard: bad steps never reach the weights; skip, go back, stop; a faulty machine is told; words for gradients."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_training import CONFIG, Toy, parts, train

from preceptor.core.errors import TrainingError
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.events import EventLog
from preceptor.train.guard import Guard, gradient_health
from preceptor.train.guard_config import GuardConfig
from preceptor.train.state import TrainState


class Told(list):
    """Listens to events."""

    def __call__(self, kind, text, **facts):
        self.append((kind, text, facts))

    def of(self, kind):
        return [(text, facts) for said, text, facts in self if said == kind]


def test_a_step_that_is_not_finite_never_reaches_the_weights():
    engine, optimizer, batches = parts(objective=Toy(poison={2}))
    before, told = {}, Told()

    def remember(record, _):
        if record.step == 1:
            before.update({name: p.detach().clone() for name, p in engine.parameters.items()})
        if record.step == 2:
            assert record.skipped
            assert all(torch.equal(before[name], p) for name, p in engine.parameters.items())

    state = train(CONFIG, engine, optimizer, batches, TrainState(), 4, hooks=[remember], tell=told)
    assert [bool(record.get("skipped")) for record in state.curve] == [False, True, False, False]
    assert state.untrained == [[1, 2]] and len(state.recent_losses) == 3
    [(text, facts)] = told.of("skipped")
    assert facts["step"] == 2 and facts["fault"]["kind"] == "non-finite" and facts["fault"]["value"] == "nan"
    assert len(facts["documents"]) >= 4 and facts["documents"][0] in text
    assert not told.of("machine")


def test_three_steps_in_a_row_that_are_not_finite_stop_the_run_where_nothing_is_saved():
    engine, optimizer, batches = parts(objective=Toy(poison={3, 4, 5}))
    with pytest.raises(TrainingError, match="step 5") as caught:
        train(CONFIG, engine, optimizer, batches, TrainState(), 10)
    assert "no checkpoint" in str(caught.value)
    assert all(torch.isfinite(p).all() for p in engine.parameters.values())


def went_back(folder, poison, num_steps, stop_after=0):
    """A run that goes back to its checkpoints: its state, weights, and events."""
    engine, optimizer, batches = parts(objective=Toy(poison=poison))
    checkpoints, told = Checkpoints(folder, "key", 2, in_background=True), Told()
    state = checkpoints.resume(engine, optimizer)
    try:
        train(
            CONFIG,
            engine,
            optimizer,
            batches,
            state,
            stop_after or num_steps,
            save=lambda state: checkpoints.save(engine, optimizer, state),
            go_back=lambda: checkpoints.go_back(engine, optimizer),
            tell=told,
        )
    finally:
        checkpoints.finish()
    return state, {name: p.detach().clone() for name, p in engine.parameters.items()}, told


def test_after_three_bad_steps_the_run_goes_back_and_passes_over_what_lies_between(tmp_path):
    # Saved after step 6; step 7 is sound, 8 to 10 are not.
    state, weights, told = went_back(tmp_path, {8, 9, 10}, 12)
    [(_, facts)] = told.of("rollback")
    assert facts["weights_of_step"] == 6 and state.untrained == [[6, 10]] and state.rollbacks == 1
    # The weights have seen steps 1 to 6, 11 and 12.
    engine, optimizer, batches = parts(objective=Toy())
    state = train(CONFIG, engine, optimizer, batches, TrainState(), 6)
    # The schedule is that of a run of 12 steps.
    engine, optimizer, batches = parts(objective=Toy())

    class Ends(Exception):
        pass

    def end(record, _):
        if record.step == 6:
            raise Ends

    state = TrainState()
    with pytest.raises(Ends):
        train(CONFIG, engine, optimizer, batches, state, 12, hooks=[end])
    state.step = 10
    train(CONFIG, engine, optimizer, batches, state, 12)
    assert all(torch.equal(weights[name], p) for name, p in engine.parameters.items())


def test_going_back_is_the_same_after_a_kill(tmp_path):
    _, straight, _ = went_back(tmp_path / "a", {8, 9, 10}, 14)

    class Killed(BaseException):
        pass

    def killed_at(step):
        def hook(record, _):
            if record.step == step:
                raise Killed

        return hook

    engine, optimizer, batches = parts(objective=Toy(poison={8, 9, 10}))
    checkpoints = Checkpoints(tmp_path / "b", "key", 2)
    with pytest.raises(Killed):
        train(
            CONFIG,
            engine,
            optimizer,
            batches,
            TrainState(),
            14,
            save=lambda state: checkpoints.save(engine, optimizer, state),
            go_back=lambda: checkpoints.go_back(engine, optimizer),
            hooks=[killed_at(11)],
        )
    state, weights, told = went_back(tmp_path / "b", {8, 9, 10}, 14)
    assert told.of("rollback") and state.untrained == [[6, 10]]
    assert all(torch.equal(weights[name], tensor) for name, tensor in straight.items())


def test_a_run_that_goes_back_too_often_stops(tmp_path):
    with pytest.raises(TrainingError, match="after going back 2 times"):
        went_back(tmp_path, set(range(8, 30)), 30)


def test_a_step_that_gives_two_results_is_told_and_its_second_result_counts():
    engine, optimizer, batches = parts()
    train(CONFIG, engine, optimizer, batches, TrainState(), 6)
    config = replace(CONFIG, guard=GuardConfig(min_steps=2, window_steps=4))
    struck, other, batches = parts(objective=Toy(struck={5}))
    told = Told()
    state = train(config, struck, other, batches, TrainState(), 6, tell=told)
    [(text, facts)] = told.of("machine")
    assert facts["step"] == 5 and "twice" in text and not told.of("skipped") and not state.untrained
    assert all(torch.equal(p, struck.parameters[name]) for name, p in engine.parameters.items())


def test_a_bit_that_flips_in_a_gradient_is_found_where_steps_are_verified(monkeypatch):
    config = replace(CONFIG, guard=GuardConfig(verify_every_steps=2))
    engine, optimizer, batches = parts()
    told, calls = Told(), []
    take = engine.forward_backward

    def flips_once(*arguments):
        sums = take(*arguments)
        calls.append(1)
        if len(calls) == 2:
            # The lowest bit of one number.
            engine.gradients()[3].view(torch.int32).view(-1)[5] ^= 1
        return sums

    monkeypatch.setattr(engine, "forward_backward", flips_once)
    train(config, engine, optimizer, batches, TrainState(), 4, tell=told)
    # Steps 1 and 3 are computed once, 2 and 4 twice.
    assert len(calls) == 6 and [facts["step"] for _, facts in told.of("machine")] == [2]
    straight, other, batches = parts()
    train(CONFIG, straight, other, batches, TrainState(), 4)
    assert all(torch.equal(p, engine.parameters[name]) for name, p in straight.parameters.items())


def test_a_spike_is_skipped_and_leaves_no_trace_in_the_statistics():
    state = TrainState()
    guard = Guard(GuardConfig(min_steps=8, window_steps=16), state)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        loss = 3 + 0.05 * float(torch.randn((), generator=generator))
        assert guard.fault(loss, 1.0) is None
        guard.take_in(loss, 1.0)
    known = list(state.recent_losses)
    assert len(known) == 16
    fault = guard.fault(6.0, 1.0)
    assert fault.kind == "spike" and fault.measure == "loss" and fault.limit < 6
    assert guard.fault(3.0, 40.0).measure == "gradient norm"
    assert guard.fault(3.0, 2.4) is None, "norms differ more than losses do"
    assert guard.fault(float("inf"), 1.0).kind == guard.fault(3.0, float("nan")).kind == "non-finite"
    assert state.recent_losses == known
    assert Guard(GuardConfig(min_steps=8, window_steps=16, spike_deviations=0), state).fault(600.0, 1.0) is None


@given(st.lists(st.floats(0.5, 2.0), min_size=40, max_size=60), st.floats(0.01, 1.0))
def test_no_falling_loss_is_a_spike(factors, start):
    state = TrainState()
    guard = Guard(GuardConfig(), state)
    loss = 10.0 + start
    for factor in factors:
        loss -= 0.01 * factor
        assert guard.fault(loss, 1.0) is None
        guard.take_in(loss, 1.0)


@pytest.mark.parametrize(
    "squares, norms, words",
    [
        ({"layers.0": 1e-9, "layers.1": 1e-3}, [], "vanish on the way down: at layers.0 1,000,000 times smaller"),
        ({"layers.0": 0.0, "layers.1": 1e-3}, [], "nothing is left"),
        ({"layers.0": 1e3, "layers.1": 1e-3}, [], "explode on the way down: at layers.0"),
        ({"layers.0": 1e-3, "layers.1": 1e-3}, [1.0] * 8 + [500.0] * 8, "explode over time"),
        ({"layers.0": 1e-3, "layers.1": 1e-3}, [1.0] * 8 + [1e-3] * 8, "vanish over time"),
        ({"layers.0": 1e-4, "layers.1": 1e-3}, [1.0] * 8 + [3.0] * 8, ""),
    ],
)
def test_gradients_that_vanish_or_explode_are_said_in_words(squares, norms, words):
    said = gradient_health(squares, norms)
    assert said == words if not words else words in said


def test_a_deep_plain_network_without_norms_is_seen_to_lose_its_gradients():
    from preceptor.parallel.engine import place

    layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(12))
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(0.2)
    model = torch.nn.Module()
    model.layers = layers
    x = torch.ones(2, 8)
    for layer in layers:
        x = torch.tanh(layer(x))
    x.sum().backward()
    parts_of_it = place(model).layer_gradients(1.0)
    assert list(parts_of_it) == [f"layers.{number}" for number in range(12)]
    norm = torch.cat([layers[3].weight.grad.flatten(), layers[3].bias.grad]).norm()
    assert parts_of_it["layers.3"][0] == pytest.approx(float(norm), rel=1e-5)
    assert "vanish" in gradient_health({part: rms for part, (_, rms) in parts_of_it.items()}, [])


def test_events_are_lines_of_json_and_a_full_disk_does_not_stop_them(tmp_path, capsys):
    log = EventLog(tmp_path / "deep" / "run-events.jsonl", "pretrain")
    log("skipped", "step 3 is skipped", step=3)
    log("rollback", "back", step=5)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["skipped", "rollback"] and lines[0]["step"] == 3
    EventLog(__import__("pathlib").Path("/dev/full"), "pretrain")("skipped", "step 4 is skipped")
    said = capsys.readouterr().err
    assert "pretrain: step 4 is skipped" in said and "training goes on" in said
