"""Adapters in the loop: what trains, how fast, and that a killed run goes on to the bit."""

from dataclasses import replace

import pytest
import torch
from toy_training import CONFIG, MODEL, Stop, Toy, train

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt
from preceptor.core.errors import Interrupted
from preceptor.models.decoder import build
from preceptor.objectives.batch import Batches
from preceptor.parallel.engine import place
from preceptor.train.checkpoint import Checkpoints
from preceptor.train.optim import Optimizer
from preceptor.train.run import FinetuningConfig
from preceptor.train.session import width_scales
from preceptor.train.state import TrainState

ADAPTERS = {
    "dora": AdapterConfig(rank=2, alpha=4, magnitude=True, dropout=0.1),
    "pissa": AdapterConfig(rank=2, alpha=4, start="pissa"),
    "embedding": AdapterConfig(rank=2, alpha=4, target_modules=("embed_tokens", "q_proj"), rate_ratio=4),
}


def adapted_parts(adapter):
    model = build(replace(MODEL, zero_init_outputs=False), torch.Generator().manual_seed(0))
    engine = place(adapt(model, adapter, torch.Generator().manual_seed(1)))
    scales = width_scales(engine.model, FinetuningConfig(adapter=adapter))
    batches = Batches(Toy(), 7, CONFIG.batch_tokens // 16, CONFIG.micro_batch_tokens // 16)
    return engine, Optimizer(engine.parameters, CONFIG.optimizer, scales), batches


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_killed_run_goes_on_to_the_bit(kind, tmp_path):
    engine, optimizer, batches = adapted_parts(ADAPTERS[kind])
    start = {name: p.clone() for name, p in engine.model.named_parameters()}
    straight = train(CONFIG, engine, optimizer, batches, TrainState(), 8)
    trained = {name for name, p in engine.model.named_parameters() if not torch.equal(p, start[name])}
    assert trained == {name for name in start if "lora_" in name}
    checkpoints, stop = Checkpoints(tmp_path, "key", 2), Stop()

    def interrupt(record, _):
        stop.requested = record.step == 5

    first, first_optimizer, batches = adapted_parts(ADAPTERS[kind])
    with pytest.raises(Interrupted):
        train(
            *(CONFIG, first, first_optimizer, batches, TrainState(), 8),
            save=lambda state: checkpoints.save(first, first_optimizer, state),
            hooks=[interrupt],
            stop=stop,
        )
    second, second_optimizer, batches = adapted_parts(ADAPTERS[kind])
    state = checkpoints.resume(second, second_optimizer)
    assert state.step == 5
    resumed = train(CONFIG, second, second_optimizer, batches, state, 8)
    again = dict(second.model.named_parameters())
    assert all(torch.equal(p, again[name]) for name, p in engine.model.named_parameters())
    assert resumed.curve == straight.curve


def test_the_rate_of_every_b_is_higher_by_the_ratio():
    adapter = AdapterConfig(rank=2, rate_ratio=16)
    engine = place(adapt(build(MODEL, torch.Generator().manual_seed(0)), adapter))
    scales = width_scales(engine.model, FinetuningConfig(adapter=adapter))
    assert {scale for name, scale in scales.items() if name.endswith("lora_B")} == {16}
    assert {scale for name, scale in scales.items() if name.endswith("lora_A")} == {1}
    optimizer = Optimizer(engine.parameters, CONFIG.optimizer, scales)
    groups = [group for part in optimizer.parts.values() for group in part.rule.param_groups]
    assert {group["scale"] for group in groups} == {1, 16}
