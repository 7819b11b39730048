"""A base in 4 bits: the reference's bytes, products and gradients; what merging gives; resume; memory."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from preceptor.adapters.adapter import trainable
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt as attach
from preceptor.adapters.attach import merge
from preceptor.adapters.low_rank import LowRankLinear
from preceptor.adapters.quantised import dense_weight, dequantised, is_quantised, quantise, weight_bytes
from preceptor.core.errors import ConfigError
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import save_model
from preceptor.nn.inputs import Inputs
from preceptor.nn.normal_float import NormalFloatLinear
from preceptor.parallel.engine import Engine, place
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig
from preceptor.train.run import FinetuningConfig
from preceptor.train.state import TrainState

CONFIG = DecoderConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=32,
    tie_word_embeddings=False,
    zero_init_outputs=False,
    initializer_range=0.2,
)
LORA = AdapterConfig(rank=4, alpha=12)
MERGE_BOUND = 1e-4
"""By how much a logit of the merged model may differ: sums in another order, nothing more."""


def tokens(seed=5):
    return torch.randint(0, 61, (2, 15), generator=torch.Generator().manual_seed(seed))


def adapted(model):
    attach(model, LORA, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRankLinear):
                module.lora_B.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.mark.parametrize("shape", [(48, 64), (7, 13), (128, 320), (33, 100)])
def test_bytes_products_and_gradients_are_those_of_bitsandbytes(shape):
    import bitsandbytes

    out_features, in_features = shape
    torch.manual_seed(0)
    layer = nn.Linear(in_features, out_features)
    ours = NormalFloatLinear(layer)
    theirs = bitsandbytes.nn.Linear4bit(
        in_features, out_features, compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4"
    )
    theirs.load_state_dict(layer.state_dict())
    theirs = theirs.to("cpu")
    assert torch.equal(ours.packed, theirs.weight.data)
    state = theirs.weight.quant_state
    assert torch.equal(ours.scales, state.absmax) and torch.equal(ours.scale_scales, state.state2.absmax)
    assert torch.equal(dense_weight(ours), bitsandbytes.functional.dequantize_4bit(theirs.weight.data, state))
    x = torch.randn(3, 5, in_features)
    gradients = []
    for each in (ours, theirs):
        given = x.clone().requires_grad_()
        product = each(given)
        product.square().sum().backward()
        gradients.append((product.detach(), given.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)
    error = (dense_weight(ours) - layer.weight).norm() / layer.weight.norm()
    assert 0.02 < error < 0.12


def test_autocast_and_a_type_to_compute_in():
    layer = nn.Linear(64, 32)
    x = torch.randn(4, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        product = NormalFloatLinear(layer)(x)
    assert product.dtype == torch.bfloat16
    product.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    assert NormalFloatLinear(layer, torch.bfloat16)(x).dtype == torch.float32


def test_linear_layers_are_in_4_bits_and_nothing_else():
    model = build(CONFIG)
    count = trainable(model)[1]
    quantise(model)
    kept = {name for name, module in model.named_modules() if type(module) in (nn.Linear, nn.Embedding)}
    assert kept == {"lm_head", "model.embed_tokens"} and is_quantised(model)
    assert trainable(model)[1] == count
    again = quantise(build(CONFIG))
    for (name, ours), theirs in zip(model.named_buffers(), again.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_4_bit_weights_take_less_than_three_tenths_of_16_bit_ones():
    layer = nn.Linear(576, 1536, bias=False)
    assert weight_bytes(NormalFloatLinear(layer)) <= 0.27 * 2 * layer.weight.numel()
    shared = nn.ModuleList([layer, layer])
    assert weight_bytes(shared) == 4 * layer.weight.numel()


def test_merging_gives_a_whole_model_that_says_what_the_adapted_one_said(tmp_path):
    model = adapted(quantise(build(CONFIG).eval()))
    attached = model.logits(tokens())
    merge(model)
    assert not is_quantised(model) and not any(isinstance(each, LowRankLinear) for each in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (model.logits(tokens()) - attached).abs().max() < MERGE_BOUND
    save_model(model, tmp_path, 0)


def test_4_bit_weights_cannot_be_written_into_or_saved(tmp_path):
    model = quantise(build(CONFIG))
    layer = model.model.layers[0].self_attn.q_proj
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        layer.weight.add_(1.0)
    with pytest.raises(ConfigError, match="4 bits"):
        save_model(model, tmp_path, 0)
    whole = dequantised(quantise(build(CONFIG).eval()))
    torch.testing.assert_close(whole.logits(tokens()), model.eval().logits(tokens()), rtol=1e-5, atol=1e-5)


def test_only_the_adapter_is_kept_for_backward_saved_and_trained(tmp_path):
    model = adapted(quantise(build(CONFIG)))
    engine = place(model)
    assert set(engine.parameters) == {name for name, _ in model.named_parameters() if "lora_" in name}
    matrices = {each.num_weights for each in model.modules() if isinstance(each, NormalFloatLinear)}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model.loss_sum(Inputs(tokens()[:, :-1]), tokens()[:, 1:])[0].backward()
    shapes = {tuple(dense_weight(each).shape) for each in model.modules() if isinstance(each, NormalFloatLinear)}
    assert matrices and not any(tuple(each.shape) in shapes for each in kept)
    assert all(p.grad is not None for p in engine.parameters.values())


class Step:
    """The loss of one batch."""

    def loss(self, model, batch):
        from preceptor.objectives.batch import LossSum

        return LossSum(*model.loss_sum(Inputs(batch[:, :-1]), batch[:, 1:]))


def stepped(engine: Engine, optimizer: Optimizer, steps):
    for step in steps:
        engine.forward_backward(Step(), [tokens(step)])
        optimizer.step(1.0)
        engine.clear_gradients()


def test_resume_is_exact_and_a_checkpoint_holds_the_adapter_alone(tmp_path):
    def fresh():
        model = attach(quantise(build(CONFIG)), LORA, torch.Generator().manual_seed(3))
        engine = place(model)
        return engine, Optimizer(engine.parameters, OptimizerConfig(kind="adamw", learning_rate=0.01))

    whole, optimizer = fresh()
    stepped(whole, optimizer, range(6))
    first, optimizer = fresh()
    stepped(first, optimizer, range(3))
    checkpoints = Checkpoints(tmp_path, "key", 1)
    checkpoints.save(first, optimizer, TrainState(step=3))
    written = sum(file.stat().st_size for file in tmp_path.rglob("weights.safetensors"))
    assert written < 2 * 4 * sum(p.numel() for p in first.parameters.values())
    second, optimizer = fresh()
    assert checkpoints.resume(second, optimizer).step == 3
    stepped(second, optimizer, range(3, 6))
    ours, theirs = (dict(engine.parameters) for engine in (whole, second))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_cannot_train_in_4_bits_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="cannot train"):
        FinetuningConfig(quantise="nf4", adapter=AdapterConfig(kind="full"))
    with pytest.raises(ValueError, match="pissa"):
        FinetuningConfig(quantise="nf4", adapter=AdapterConfig(start="pissa"))
    with pytest.raises(ValueError, match="fp4"):
        quantise(build(CONFIG), "fp4")
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(ConfigError, match="bitsandbytes") as raised:
        quantise(build(CONFIG))
    assert "preceptor[quant]" in str(raised.value)


SPIKE = """
    import resource, sys, torch
    from pathlib import Path
    from preceptor.adapters.adapter_config import AdapterConfig
    from preceptor.adapters.attach import adapt as attach
    from preceptor.adapters.quantised import quantise
    from preceptor.models.decoder import build
    from preceptor.models.decoder_config import DecoderConfig
    from preceptor.parallel.engine import place
    from preceptor.train.allocator import return_freed_memory
    from preceptor.train.memory_config import MemoryConfig
    from preceptor.train.optim import Optimizer
    from preceptor.train.optim_config import OptimizerConfig

    torch.set_num_threads(1)
    return_freed_memory()
    config = DecoderConfig(vocab_size=16, hidden_size=512, intermediate_size=1024, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=4, head_dim=128, max_position_embeddings=16)
    base = quantise(build(config))

    def held():
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()

    def step():
        for parameter in engine.parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step(1.0)
        engine.clear_gradients()

    engine = place(attach(base, AdapterConfig(rank=512)))
    weights = sum(p.nbytes for p in engine.parameters.values())
    for states in ("disk", "memory"):
        memory = MemoryConfig(optimizer_states=states)
        optimizer = Optimizer(engine.parameters, OptimizerConfig(kind="adamw"), memory=memory, folder=Path(sys.argv[1]))
        before = held()
        step()
        # Room for the spike and three quarters of the states, which are twice the weights.
        limit = before + 4 * weights + 3 * weights // 2
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        try:
            spike = torch.ones(weights)
            del spike
            step()
            print(states, "went on")
        except RuntimeError as error:
            print(states, "ended:", error)
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process holds")
def test_states_on_disk_let_a_run_survive_a_spike_of_memory(tmp_path):
    arguments = [sys.executable, "-c", textwrap.dedent(SPIKE), str(tmp_path)]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    on_disk, in_memory = result.stdout.splitlines() if result.returncode == 0 else [result.stderr, ""]
    assert on_disk == "disk went on"
    assert in_memory.startswith("memory ended") and "allocate" in in_memory
