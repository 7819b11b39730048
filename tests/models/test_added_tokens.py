"""Tokens that were added and trained are there again in a fresh process: their rows, and every logit."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.growth import grow_vocabulary
from preceptor.models.interchange import save_model
from preceptor.nn.inputs import Inputs

OLD, NEW = 50, 3
READER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from preceptor.models.interchange import load_model
from preceptor.nn.inputs import Inputs
folder = Path(sys.argv[1])
model = load_model(folder)
with torch.no_grad():
    logits = model(Inputs(torch.tensor(eval(sys.argv[2]))))
rows = {"input": model.input_embedding.weight, "output": model.output_weight_VD}
save_file({name: t.detach().clone() for name, t in rows.items()} | {"logits": logits}, folder / "said.safetensors")
"""


@pytest.mark.parametrize("tied", [True, False])
def test_added_tokens_that_were_trained_are_the_same_in_a_fresh_process(tmp_path, tied):
    config = DecoderConfig(
        vocab_size=OLD, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, zero_init_outputs=False, tie_word_embeddings=tied,
    )  # fmt: skip
    grown = grow_vocabulary(
        build(config, torch.Generator().manual_seed(1)), [[1, 2], [], [7]], torch.Generator().manual_seed(0)
    )
    assert grown.config.vocab_size == OLD + NEW
    started = grown.input_embedding.weight.detach().clone(), grown.output_weight_VD.detach().clone()
    # Texts in which the new tokens stand and are to be said.
    tokens = torch.tensor([[3, OLD, 9, OLD + 1, OLD + 2, 4, OLD], [OLD + 2, 5, 6, OLD, OLD + 1, 8, 1]])
    rule = torch.optim.AdamW(grown.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        rule.zero_grad()
        grown.loss_sum(Inputs(tokens[:, :-1]), tokens[:, 1:])[0].backward()
        rule.step()
    grown.eval()
    with torch.no_grad():
        expected = grown(Inputs(tokens))
    save_model(grown, tmp_path)
    subprocess.run([sys.executable, "-c", READER, str(tmp_path), str(tokens.tolist())], check=True)
    said = load_file(tmp_path / "said.safetensors")
    assert said["logits"].shape[-1] == OLD + NEW and torch.equal(said["logits"], expected)
    for name, rows, before in zip(
        ("input", "output"), (grown.input_embedding.weight, grown.output_weight_VD), started, strict=True
    ):
        assert torch.equal(said[name], rows)
        # What was saved is what was learned, and not what the rows started as.
        assert (said[name][OLD:] != before[OLD:]).any(dim=1).all()
