"""Merged into its base an adapter says what it said beside it; into another base it does not go."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt, load_adapter, merge, save_adapter
from preceptor.core.errors import ArtifactError
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import load_model, save_model
from preceptor.nn.inputs import Inputs

CONFIG = DecoderConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=32, zero_init_outputs=False, initializer_range=0.2,
)  # fmt: skip
TOKENS = torch.randint(0, 61, (4, 24), generator=torch.Generator().manual_seed(5))


def logits(model):
    with torch.no_grad():
        return model(Inputs(TOKENS))


def trained(config):
    """A base with an adapter that was trained until it says something else."""
    model = adapt(build(CONFIG, torch.Generator().manual_seed(1)), config, torch.Generator().manual_seed(2))
    rule = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(8):
        rule.zero_grad()
        model.loss_sum(Inputs(TOKENS[:, :-1]), TOKENS[:, 1:])[0].backward()
        rule.step()
    return model.eval()


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_merging_in_float32_changes_no_logit_and_survives_saving(tmp_path, rank):
    model = trained(AdapterConfig(rank=rank, alpha=2.0 * rank))
    base, attached = logits(build(CONFIG, torch.Generator().manual_seed(1)).eval()), logits(model)
    assert (attached - base).abs().max() > 0.5, "training must have changed what it says"
    merged = merge(model)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    torch.testing.assert_close(logits(merged), attached, rtol=1e-5, atol=1e-5)
    divergence = F.kl_div(logits(merged).log_softmax(-1), attached.log_softmax(-1), log_target=True, reduction="none")
    assert divergence.sum(-1).max() < 1e-6
    save_model(merged, tmp_path, 0)
    assert torch.equal(logits(load_model(tmp_path).eval()), logits(merged))


@pytest.mark.parametrize(
    "other",
    [
        {"num_hidden_layers": 1},
        {"hidden_size": 48},
        {"intermediate_size": 64},
        {"num_key_value_heads": 2},
    ],
)
def test_an_adapter_of_another_base_is_refused_before_anything_is_merged(tmp_path, other):
    config = AdapterConfig(rank=4)
    save_adapter(trained(config), config, tmp_path, "a-base")
    with pytest.raises(ArtifactError, match="does not fit"):
        load_adapter(build(replace(CONFIG, **other)), tmp_path)
    # Beside its own base it says what it said.
    again = load_adapter(build(CONFIG, torch.Generator().manual_seed(1)), tmp_path)
    assert torch.equal(logits(again), logits(trained(config)))
