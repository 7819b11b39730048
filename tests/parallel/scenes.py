"""What ranks do together in the tests of parallel training; each function runs in every process of a mesh."""

from dataclasses import asdict, replace

import numpy as np
import torch
from torch.nn import functional as F

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt, virtual_ids
from preceptor.adapters.sharding import sharding_of
from preceptor.core.errors import ConfigError
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.interchange import architecture_of
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.losses import IGNORED
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
    "encoder": EncoderConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=16,
        attention_bias=True,
        mlp_bias=True,
        lm_head_bias=True,
    ),
    "encoder_decoder": EncoderDecoderConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=4,
        max_position_embeddings=16,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
    ),
    "two_stream": TwoStreamConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
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
        return LossSum(*model.loss_sum(self.read(model, batch), batch.labels_BT))

    @staticmethod
    def read(model, batch):
        """What a model of this family reads: also a source, or an order and two texts."""
        inputs = batch.inputs
        if ids := virtual_ids(model):
            inputs = inputs._replace(tokens_BT=inputs.tokens_BT.clone())
            inputs.tokens_BT[:, : len(ids)] = torch.tensor(ids)
        if model.config.family == "encoder_decoder":
            return inputs._replace(source=inputs)
        if model.config.family == "two_stream":
            return inputs._replace(order_BT=inputs.tokens_BT * 7 % 13, token_types_BT=inputs.tokens_BT % 2)
        return inputs


class Smooth(Documents):
    """The same with a smoothed and penalised loss."""

    def loss(self, model, batch):
        return LossSum(*model.loss_sum(self.read(model, batch), batch.labels_BT, label_smoothing=0.1, z_loss=1e-2))


class OneByOne(Documents):
    """Squares of the losses of single tokens."""

    def loss(self, model, batch):
        losses_M, correct_M = model.supervised_losses(self.read(model, batch), batch.labels_BT)
        return LossSum(losses_M.square().sum(), correct_M.sum(), len(losses_M))


class Scored(Documents):
    """The loss of logits that are made whole; right predictions are those that the model names."""

    def loss(self, model, batch):
        supervised_BT, read = batch.labels_BT != IGNORED, self.read(model, batch)
        labels_M = batch.labels_BT[supervised_BT]
        logits_MV = model.score(model.hidden(read)[supervised_BT])
        correct = (model.most_likely(read, batch.labels_BT) == labels_M).sum()
        losses_BT, _ = model.losses_and_hits(read, batch.labels_BT)
        total = F.cross_entropy(logits_MV, labels_M, reduction="sum")
        return LossSum(total + losses_BT.sum().detach(), correct, len(labels_M))


OBJECTIVES = {each.__name__: each for each in (Documents, Smooth, OneByOne, Scored)}


def built(model, dtype="float64", adapter=None, alike=None, **changes):
    """A model and the table of its weights; ``alike`` are tokens that score 1 everywhere, where all others score 0."""
    config = replace(MODELS[model], **changes)
    family = architecture_of(config).family
    module, table = family.build(config, torch.Generator().manual_seed(0)), family.sharding
    if alike:
        module.output_weight_VD.data.zero_()
        module.output_bias_V.data[alike] = 1.0
    if adapter:
        adapt(module, AdapterConfig(**adapter), torch.Generator().manual_seed(1))
        table = sharding_of(module, table)
    return module.to(getattr(torch, dtype)), table


def curve(
    model="decoder",
    mesh=None,
    dtype="float64",
    steps=1,
    rows=8,
    rows_per_microbatch=2,
    changes=None,
    adapter=None,
    objective="Documents",
):
    """Losses and gradient norms of some steps of plain gradient descent with clipping; the last step's gradients."""
    module, table = built(model, dtype, adapter, **(changes or {}))
    joined = Mesh.join(MeshConfig(**(mesh or {})))
    engine = place(module, mesh=joined, table=table)
    batches = Batches(OBJECTIVES[objective](), 7, rows, rows_per_microbatch)
    facts = {"losses": [], "norms": [], "pieces": {name: asdict(piece) for name, piece in engine.pieces.items()}}
    for piece in facts["pieces"].values():
        piece["copies"] = sorted(piece["copies"])
    for step in range(steps):
        engine.clear_gradients()
        torch.manual_seed(step)
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


def refused(**given):
    """What the refusal of a layout says."""
    try:
        curve(**given)
    except ConfigError as error:
        return {"said": str(error), "remedy": error.remedy, "path": error.path}, {}
    return {"said": "", "remedy": "", "path": ""}, {}
