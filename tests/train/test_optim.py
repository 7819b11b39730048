"""Optimizers and schedules: against PyTorch's own, against the mathematics, and their state."""

import pytest
import torch
from torch import nn

from preceptor.core.errors import ArtifactError
from preceptor.train.optim import Optimizer, orthogonalise
from preceptor.train.run import OptimizerConfig, ScheduleConfig
from preceptor.train.schedule import learning_rate_factor


def weights() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (20, 8), "a.weight": (16, 8), "b.weight": (8, 24), "norm.weight": (8,)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(40, 40), (24, 96), (96, 24), (8, 64)])
def test_orthogonalise_brings_singular_values_near_one_and_keeps_the_singular_vectors(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.7 and values.max() < 1.2
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    alignment = (u.t() @ result @ v.t()).diagonal() / values.mean()
    assert alignment.min() > 0.6


def test_a_zero_gradient_gives_a_zero_update():
    assert torch.equal(orthogonalise(torch.zeros(6, 9)), torch.zeros(6, 9))


def test_adamw_equals_pytorchs():
    ours, theirs = weights(), weights()
    config = OptimizerConfig(kind="adamw", learning_rate=0.01, weight_decay=0.1, beta2=0.97)
    optimizer = Optimizer(ours, config)
    groups = [
        {"params": [p for p in theirs.values() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.97), eps=1e-8, foreach=False, fused=False)
    for step in range(5):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step(1.0)
        reference.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-5, atol=1e-6)


def test_muon_trains_hidden_matrices_and_adamw_the_rest():
    optimizer = Optimizer(weights(), OptimizerConfig(kind="muon"))
    assert optimizer.muon is not None and set(optimizer.muon.buffers) == {"a.weight", "b.weight"}
    gradients(parameters := optimizer.muon.parameters | optimizer._adamw_parameters, 0)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer.step(0.0)
    assert all(torch.equal(before[name], p) for name, p in parameters.items())
    optimizer.step(1.0)
    assert not any(torch.equal(before[name], p) for name, p in parameters.items())


def test_a_scale_multiplies_a_weights_rate_but_not_its_decay():
    ours, theirs = weights(), weights()
    config = OptimizerConfig(kind="adamw", learning_rate=0.01, weight_decay=0.1)
    optimizer = Optimizer(ours, config, {"a.weight": 0.25, "norm.weight": 0.5})
    groups = [
        {"params": [theirs["a.weight"]], "lr": 0.01 * 0.25, "weight_decay": 0.4},
        {"params": [theirs["norm.weight"]], "lr": 0.01 * 0.5, "weight_decay": 0.0},
        {"params": [theirs["b.weight"], theirs["model.embed_tokens.weight"]], "lr": 0.01, "weight_decay": 0.1},
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    for step in range(5):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step(1.0)
        reference.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-5, atol=1e-6)


def test_a_scale_multiplies_muons_update():
    config = OptimizerConfig(kind="muon", weight_decay=0.0)
    moves = []
    for scale in (1.0, 0.25):
        trained, started = weights(), weights()
        optimizer = Optimizer(trained, config, {"a.weight": scale})
        gradients(trained, 0)
        optimizer.step(1.0)
        moves.append({name: trained[name].detach() - started[name].detach() for name in trained})
    torch.testing.assert_close(moves[1]["a.weight"], 0.25 * moves[0]["a.weight"], rtol=1e-4, atol=1e-6)
    assert torch.equal(moves[1]["b.weight"], moves[0]["b.weight"])


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_saved_state_goes_on_bit_for_bit(kind):
    config = OptimizerConfig(kind=kind)
    straight, resumed = weights(), weights()
    optimizer = Optimizer(straight, config)
    for step in range(6):
        gradients(straight, step)
        optimizer.step(1.0)
    first = Optimizer(resumed, config)
    for step in range(3):
        gradients(resumed, step)
        first.step(1.0)
    state = {name: tensor.clone() for name, tensor in first.state_tensors().items()}
    second = Optimizer(resumed, config)
    second.load_state_tensors(state)
    for step in range(3, 6):
        gradients(resumed, step)
        second.step(1.0)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert {n: t.tolist() for n, t in second.state_tensors().items()} == {
        n: t.tolist() for n, t in optimizer.state_tensors().items()
    }


def test_a_state_of_other_weights_is_refused():
    optimizer = Optimizer(weights(), OptimizerConfig())
    with pytest.raises(ArtifactError, match="does not fit"):
        optimizer.load_state_tensors({})
    state = optimizer.state_tensors() | {"muon.other.weight": torch.zeros(2)}
    with pytest.raises(ArtifactError, match=r"muon\.other"):
        optimizer.load_state_tensors(state)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScheduleConfig(kind="linear", warmup_steps=2), {0: 0.5, 1: 1.0, 2: 1.0, 6: 0.5, 9: 0.125}),
        (ScheduleConfig(kind="cosine", warmup_steps=0, final_fraction=0.2), {0: 1.0, 5: 0.6}),
        (ScheduleConfig(kind="constant", warmup_steps=4), {0: 0.25, 3: 1.0, 9: 1.0}),
        (
            ScheduleConfig(kind="warmup-stable-decay", warmup_steps=1, decay_fraction=0.5),
            {0: 1.0, 5: 1.0, 6: 0.8, 9: 0.2},
        ),
    ],
)
def test_the_rate_is_its_closed_form(config, expected):
    for step, factor in expected.items():
        assert learning_rate_factor(config, step, 10) == pytest.approx(factor)
