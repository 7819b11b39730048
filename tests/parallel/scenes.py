"""What ranks do together in the tests of parallel training; each function runs in every process of a mesh."""

from dataclasses import asdict, replace

import numpy as np
import torch

from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import architecture_of
from preceptor.objectives.batch import Batches, LossSum
from preceptor.objectives.packing import collate_rows, plan_rows
from preceptor.parallel.engine import place
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.mesh_config import MeshConfig

MODELS = {
    "decoder": DecoderConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=16,
    ),
}


class Documents:
    """A packed stream of small documents, some of whose tokens are not supervised."""

    def __init__(self):
        generator = np.random.default_rng(0)
        lengths = generator.integers(2, 20, 60)
        self.tokens = generator.integers(1, 40, lengths.sum()).astype(np.uint32)
        self.supervised = generator.random(self.tokens.size) < 0.7
        self.plan = plan_rows(np.cumsum([0, *lengths]).astype(np.int64), 16)
        self.num_rows = self.plan.num_rows

    def collate(self, rows, samples=None):
        return collate_rows(self.plan, rows, self.tokens, 0, self.supervised)

    def loss(self, model, batch):
        return LossSum(*model.loss_sum(batch.inputs, batch.labels_BT))


def built(model, dtype="float64", **changes):
    config = replace(MODELS[model], **changes)
    family = architecture_of(config).family
    return family.build(config, torch.Generator().manual_seed(0)).to(getattr(torch, dtype)), family.sharding


def curve(model="decoder", mesh=None, dtype="float64", steps=1, rows=8, rows_per_microbatch=2, changes=None):
    """Losses and gradient norms of some steps of plain gradient descent with clipping; the last step's gradients."""
    module, table = built(model, dtype, **(changes or {}))
    joined = Mesh.join(MeshConfig(**(mesh or {})))
    engine = place(module, mesh=joined, table=table)
    batches = Batches(Documents(), 7, rows, rows_per_microbatch)
    facts = {"losses": [], "norms": [], "pieces": {name: asdict(piece) for name, piece in engine.pieces.items()}}
    for piece in facts["pieces"].values():
        piece["copies"] = sorted(piece["copies"])
    for step in range(steps):
        engine.clear_gradients()
        sums = engine.forward_backward(batches.objective, batches.at(step, joined.share))
        facts["norms"].append(engine.scale_and_clip(1 / sums.tokens, 1.0))
        facts["losses"].append(sums.total / sums.tokens)
        if step < steps - 1:
            with torch.no_grad():
                for parameter in engine.parameters.values():
                    parameter.sub_(parameter.grad, alpha=0.5)
    facts["tokens"], facts["correct"] = sums.tokens, sums.correct
    held = joined.dealt([list(range(start, start + 2)) for start in range(0, 10, 2)])
    chunks = [(batches.objective.collate(chunk), counts) for chunk, counts in held]
    facts["evaluated"] = engine.evaluate(batches.objective, chunks)
    return facts, {name: p.grad for name, p in engine.parameters.items() if p.grad is not None}
