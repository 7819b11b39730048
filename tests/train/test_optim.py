"""Optimizers and schedules: against PyTorch's own, against the mathematics, and their state."""

import pytest
import torch
from torch import nn

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.train.optim import Optimizer, freeze, layer_scales
from preceptor.train.optim_config import OptimizerConfig, ParameterGroup, ScheduleConfig
from preceptor.train.schedule import learning_rate_factor
from preceptor.train.update_rules import orthogonalise


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
    assert set(optimizer.parts["muon"].parameters) == {"a.weight", "b.weight"}
    gradients(parameters := optimizer.parameters, 0)
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


KINDS = ["muon", "adamw", "adam", "adafactor", "lion", "rmsprop", "sgd"]


@pytest.mark.parametrize("kind", KINDS)
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
    trained = weights()
    optimizer = Optimizer(trained, OptimizerConfig())
    gradients(trained, 0)
    optimizer.step(1.0)
    state = optimizer.state_tensors()
    with pytest.raises(ArtifactError, match=r"muon\.other"):
        optimizer.load_state_tensors(state | {"muon.other.weight.momentum_buffer": torch.zeros(2)})
    with pytest.raises(ArtifactError, match=r"a\.weight\.momentum_buffer has shape \(2,\)"):
        optimizer.load_state_tensors(state | {"muon.a.weight.momentum_buffer": torch.zeros(2)})
    with pytest.raises(ArtifactError, match="unknown weights"):
        Optimizer(trained, OptimizerConfig(kind="lion")).load_state_tensors(state)


def reference(kind, groups, rate):
    """PyTorch's optimizer of a kind, not fused and weight by weight."""
    plain = {"lr": rate, "foreach": False}
    match kind:
        case "adam":
            return torch.optim.Adam(groups, **plain, betas=(0.9, 0.95), eps=1e-8)
        case "adafactor":
            return torch.optim.Adafactor(groups, **plain)
        case "rmsprop":
            return torch.optim.RMSprop(groups, **plain, alpha=0.99, eps=1e-8, momentum=0.8)
    return torch.optim.SGD(groups, **plain, momentum=0.8, nesterov=True)


@pytest.mark.parametrize("kind", ["adam", "adafactor", "rmsprop", "sgd"])
def test_every_kind_equals_pytorchs(kind):
    ours, theirs = weights(), weights()
    optimizer = Optimizer(ours, OptimizerConfig(kind=kind, learning_rate=0.01, momentum=0.8))
    expected = reference(kind, list(theirs.values()), 0.01)
    for step in range(5):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step(0.5)
        expected.param_groups[0]["lr"] = 0.005
        expected.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-5, atol=1e-6)


def test_lion_follows_its_program():
    """Chen et al. 2023, program 1, written down."""
    ours, theirs = weights(), {name: p.detach().clone() for name, p in weights().items()}
    config = OptimizerConfig(kind="lion", learning_rate=0.01, beta1=0.9, beta2=0.99, weight_decay=0.2)
    optimizer = Optimizer(ours, config)
    averages = {name: torch.zeros_like(p) for name, p in theirs.items()}
    for step in range(4):
        gradients(ours, step)
        for name, parameter in theirs.items():
            gradient, average = ours[name].grad, averages[name]
            update = torch.sign(0.9 * average + 0.1 * gradient)
            decay = 0.2 if parameter.dim() > 1 else 0.0
            theirs[name] = parameter - 0.01 * (update + decay * parameter)
            averages[name] = 0.99 * average + 0.01 * gradient
        optimizer.step(1.0)
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.detach(), theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_decoupled_decay_shrinks_matrices_alone_and_by_the_rate(kind):
    trained, before = weights(), weights()
    config = OptimizerConfig(kind=kind, learning_rate=0.1, adamw_learning_rate=0.1, weight_decay=0.5)
    optimizer = Optimizer(trained, config)
    for parameter in trained.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    for name, parameter in trained.items():
        expected = before[name] * (1 - 0.1 * 0.5 if parameter.dim() > 1 else 1.0)
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)


def test_kinds_have_the_decay_that_is_usual_for_them():
    assert {kind: OptimizerConfig(kind=kind).decay for kind in KINDS} == {
        **dict.fromkeys(("muon", "adamw", "lion"), 0.1),
        **dict.fromkeys(("adam", "adafactor", "rmsprop", "sgd"), 0.0),
    }


def test_penalties_are_those_of_the_loss():
    ours, theirs = weights(), weights()
    optimizer = Optimizer(ours, OptimizerConfig(kind="sgd", learning_rate=0.1, momentum=0, l1=0.03, l2=0.2))
    expected = torch.optim.SGD(theirs.values(), lr=0.1)
    for _ in range(3):
        for parameters in (ours, theirs):
            for parameter in parameters.values():
                parameter.grad = None
            loss = sum((parameter**2).sin().sum() for parameter in parameters.values())
            if parameters is theirs:
                matrices = [parameter for parameter in parameters.values() if parameter.dim() > 1]
                loss = loss + sum(0.03 * p.abs().sum() + 0.1 * (p**2).sum() for p in matrices)
            loss.backward()
        optimizer.step(1.0)
        expected.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-5, atol=1e-6)


def test_groups_have_their_own_rate_and_decay():
    groups = (
        ParameterGroup(pattern="a.*", learning_rate_scale=0.5, weight_decay=0.0),
        ParameterGroup(pattern="*", learning_rate_scale=2.0),
    )
    moved = {}
    for given in ((), groups):
        trained, before = weights(), weights()
        config = OptimizerConfig(kind="sgd", learning_rate=0.1, momentum=0, weight_decay=0.3, groups=given)
        optimizer = Optimizer(trained, config)
        gradients(trained, 0)
        optimizer.step(1.0)
        moved[bool(given)] = {name: trained[name].detach() - before[name].detach() for name in trained}
    gradient = weights()
    gradients(gradient, 0)
    torch.testing.assert_close(moved[True]["a.weight"], -0.05 * gradient["a.weight"].grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moved[True]["norm.weight"], 2 * moved[False]["norm.weight"], rtol=1e-4, atol=1e-6)


class Layered(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(4, 3)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.norm = nn.LayerNorm(3)


def test_layers_further_down_learn_more_slowly():
    scales = layer_scales([name for name, _ in Layered().named_parameters()], 0.5)
    assert scales["norm.weight"] == 1.0
    assert [scales[f"layers.{layer}.weight"] for layer in range(3)] == [0.125, 0.25, 0.5]
    assert scales["embed_tokens.weight"] == 0.0625
    sided = ["shared.weight", "encoder.layers.0.a.weight", "decoder.layers.1.a.weight", "decoder.layer_norm.weight"]
    assert list(layer_scales(sided, 0.5).values()) == [0.125, 0.25, 0.5, 1.0]


def test_frozen_weights_ask_for_no_gradient_and_others_wait_for_their_step():
    model = Layered()
    groups = (ParameterGroup(pattern="*embed*", frozen=True), ParameterGroup(pattern="layers.0.*", from_step=2))
    config = OptimizerConfig(kind="adamw", groups=groups)
    freeze(model, config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert "embed_tokens.weight" not in trained
    optimizer = Optimizer(trained, config)
    for step in range(4):
        before = {name: p.detach().clone() for name, p in trained.items()}
        gradients(trained, step)
        optimizer.hold_back(step)
        optimizer.step(1.0)
        moved = {name for name, p in trained.items() if not torch.equal(before[name], p)}
        waiting = {"layers.0.weight", "layers.0.bias"} if step < 2 else set()
        assert moved == trained.keys() - waiting


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ((ParameterGroup(pattern="layer.*"),), r"'layer\.\*' fits no weight"),
        ((ParameterGroup(pattern="*", frozen=True),), "no weight to be trained"),
        ((ParameterGroup(pattern="*", from_step=3),), "no weight to be trained"),
    ],
)
def test_groups_that_cannot_be_are_told(groups, said):
    with pytest.raises(ConfigError, match=said):
        freeze(Layered(), OptimizerConfig(groups=groups))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pattern": ""}, "pattern"),
        ({"pattern": "*", "learning_rate_scale": 0}, "frozen"),
        ({"pattern": "*", "frozen": True, "from_step": 1}, "never trained"),
        ({"pattern": "*", "weight_decay": -1}, "negative"),
        ({"pattern": "*", "from_step": -1}, "negative"),
    ],
)
def test_groups_that_say_nothing_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ParameterGroup(**wrong)


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (ScheduleConfig(kind="linear", warmup_steps=7), "get_linear_schedule_with_warmup"),
        (ScheduleConfig(kind="cosine", warmup_steps=7), "get_cosine_schedule_with_warmup"),
        (ScheduleConfig(kind="cosine", warmup_steps=7, cycles=3), "get_cosine_with_hard_restarts_schedule_with_warmup"),
        (ScheduleConfig(kind="inverse-sqrt", warmup_steps=7), "get_inverse_sqrt_schedule"),
        (ScheduleConfig(kind="constant", warmup_steps=7), "get_constant_schedule_with_warmup"),
    ],
)
def test_rates_are_those_of_transformers(config, theirs):
    """Except in the warm-up, which there begins with a step of rate 0."""
    import transformers

    more = {"num_warmup_steps": 7}
    if "constant" not in theirs and "inverse" not in theirs:
        more["num_training_steps"] = 40
    if config.cycles > 1:
        more["num_cycles"] = config.cycles
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = getattr(transformers, theirs)(optimizer, **more)
    for step in range(40):
        expected = schedule.get_last_lr()[0]
        ours = learning_rate_factor(config, step, 40)
        assert ours == pytest.approx(expected if step >= 7 else (step + 1) / 7, rel=1e-6, abs=1e-9)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScheduleConfig(kind="linear", warmup_steps=2), {0: 0.5, 1: 1.0, 2: 1.0, 6: 0.5, 9: 0.125}),
        (ScheduleConfig(kind="cosine", warmup_steps=0, final_fraction=0.2), {0: 1.0, 5: 0.6}),
        (ScheduleConfig(kind="constant", warmup_steps=4), {0: 0.25, 3: 1.0, 9: 1.0}),
        (ScheduleConfig(kind="step", warmup_steps=1, drop=0.5, drop_every_steps=3), {0: 1.0, 3: 1.0, 4: 0.5, 9: 0.25}),
        (ScheduleConfig(kind="exponential", warmup_steps=0, final_fraction=0.01), {0: 1.0, 5: 0.1, 9: 0.01**0.9}),
        (ScheduleConfig(kind="linear", warmup_steps=2, cycles=2), {2: 1.0, 5: 0.25, 6: 1.0, 9: 0.25}),
        (
            ScheduleConfig(kind="warmup-stable-decay", warmup_steps=1, decay_fraction=0.5),
            {0: 1.0, 5: 1.0, 6: 0.8, 9: 0.2},
        ),
    ],
)
def test_the_rate_is_its_closed_form(config, expected):
    for step, factor in expected.items():
        assert learning_rate_factor(config, step, 10) == pytest.approx(factor)
