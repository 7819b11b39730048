"""What the processes of a pipeline do together in the tests; each function runs in every process of a mesh."""

import contextlib
import io
from dataclasses import asdict, replace

import torch
from scenes import Documents

from preceptor.adapters import low_rank_targets, prefix, prompt
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.core.errors import ConfigError
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.heads import HeadConfig, attach_head, head_scores
from preceptor.models.interchange import architecture_of
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batches, LossSum
from preceptor.parallel.engine import place
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.mesh_config import MeshConfig
from preceptor.train.activations import saving_activations
from preceptor.train.memory_config import MemoryConfig

WIDTHS = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
}
POSITIONS = {"head_dim": 4, "max_position_embeddings": 16}
MODELS = {
    "decoder": DecoderConfig(**WIDTHS, **POSITIONS, zero_init_outputs=False),
    "gpt2": DecoderConfig(
        **WIDTHS, **POSITIONS, positions="learned", norm="layernorm", gated=False, attention_bias="all", mlp_bias=True
    ),
    "encoder": EncoderConfig(**WIDTHS, max_position_embeddings=16),
    "bert": EncoderConfig(
        **WIDTHS,
        max_position_embeddings=16,
        positions="learned",
        norm_placement="after",
        type_vocab_size=2,
        attention_bias=True,
    ),
    "two_stream": TwoStreamConfig(**WIDTHS, norm_eps=1e-5),
    "t5": EncoderDecoderConfig(**WIDTHS | {"num_hidden_layers": 3}, **POSITIONS, num_decoder_layers=3),
    "bart": EncoderDecoderConfig(
        **WIDTHS | {"num_hidden_layers": 2},
        **POSITIONS,
        num_decoder_layers=4,
        positions="learned",
        normalize_embedding=True,
        norm="layernorm",
        norm_placement="after",
        tie_word_embeddings=True,
        initializer="normal",
    ),
}


class Read(Documents):
    """The documents as a family reads them, or with the class of each token as a head says it."""

    def __init__(self, family, head=False, before=False):
        super().__init__()
        self.family, self.head, self.before = family, head, before

    def collate(self, rows, samples=None):
        batch = super().collate(rows)
        inputs = batch.inputs
        if self.family == "encoder_decoder":
            source = Inputs(inputs.tokens_BT.flip(1), segments_BT=inputs.segments_BT.flip(1))
            inputs = inputs._replace(source=source)
        if self.family == "two_stream":
            order_BT = (inputs.tokens_BT * 7919 % 101) + 1
            inputs = inputs._replace(order_BT=order_BT.masked_fill(batch.labels_BT == IGNORED, 0))
        if self.before:
            inputs = inputs._replace(before=Inputs(inputs.tokens_BT))
        return replace(batch, inputs=inputs)

    def loss(self, model, batch):
        if not self.head:
            return super().loss(model, batch)
        supervised_BT = batch.labels_BT != IGNORED
        scores_MC = head_scores(model, "tags", batch.inputs)[supervised_BT]
        labels_M = batch.labels_BT[supervised_BT] % 3
        total = torch.nn.functional.cross_entropy(scores_MC, labels_M, reduction="sum")
        return LossSum(total, (scores_MC.argmax(-1) == labels_M).sum(), len(labels_M))


def built(model, dtype="float64", adapter=None, head=False, frozen="", **changes):
    config = replace(MODELS[model], **changes)
    generator = torch.Generator().manual_seed(0)
    module = architecture_of(config).family.build(config, generator)
    if adapter:
        attach = {"lora": low_rank_targets, "prefix": prefix, "prompt": prompt}[adapter["kind"]].attach
        if adapter["kind"] != "lora":
            module.requires_grad_(False)
        attach(module, AdapterConfig(**adapter), generator)
    if head:
        attach_head(module, "tags", HeadConfig(kind="tagger", labels=("a", "b", "c")), generator)
    if frozen:
        module.get_submodule(frozen).requires_grad_(False)
    return module.to(getattr(torch, dtype)), architecture_of(config).family


def curve(
    model="decoder",
    mesh=None,
    dtype="float64",
    steps=3,
    rows=9,
    rows_per_microbatch=2,
    computes="float32",
    loss_scale=1.0,
    checkpointing="none",
    head=False,
    seed=0,
    **given,
):
    """Losses and gradient norms of some steps of plain gradient descent with clipping; the last step's gradients."""
    module, family = built(model, dtype, head=head, **given)
    joined = Mesh.join(MeshConfig(**(mesh or {})))
    engine = place(module, mesh=joined, dtype=getattr(torch, computes), table=family.sharding)
    engine.loss_scale = loss_scale
    batches = Batches(Read(family.name, head), 7, rows, rows_per_microbatch)
    facts = {"losses": [], "norms": [], "pieces": {name: asdict(piece) for name, piece in engine.pieces.items()}}
    for piece in facts["pieces"].values():
        piece["copies"] = sorted(piece["copies"])
    with saving_activations(engine.model, MemoryConfig(activation_checkpointing=checkpointing), None):
        for step in range(steps):
            engine.clear_gradients()
            torch.manual_seed(seed + step)
            sums = engine.forward_backward(batches.objective, batches.at(step, joined.share))
            facts["norms"].append(engine.scale_and_clip(1 / sums.tokens, 1.0))
            facts["losses"].append(sums.total / sums.tokens)
            if step < steps - 1:
                with torch.no_grad():
                    for parameter in engine.parameters.values():
                        if parameter.grad is not None:
                            parameter.sub_(parameter.grad, alpha=0.5)
    facts["tokens"], facts["correct"] = sums.tokens, sums.correct
    held = joined.dealt([list(range(start, start + 2)) for start in range(0, 20, 2)])
    chunks = [(batches.objective.collate(chunk), counts) for chunk, counts in held]
    facts["evaluated"] = engine.evaluate(batches.objective, chunks)
    facts["held"] = sum(parameter.numel() for parameter in module.parameters())
    facts["drawn"] = torch.rand(1).item()
    facts["layers"] = sorted(part for part in engine.layer_gradients(1.0) if "layers" in part)
    return facts, {name: p.grad for name, p in engine.parameters.items() if p.grad is not None}


def refusal(model="decoder", mesh=None, before=False, **given):
    """What is said of a layout that cannot work: its message, path and remedy."""
    joined = Mesh.join(MeshConfig(**mesh))
    try:
        module, family = built(model, **given)
        engine = place(module, mesh=joined, table=family.sharding)
        batches = Batches(Read(family.name, before=before), 7, 4, 2)
        engine.forward_backward(batches.objective, batches.at(0, joined.share))
    except ConfigError as error:
        return {"message": error.message, "path": error.path, "remedy": error.remedy}, {}
    return {}, {}


def told(mesh):
    """What is said on standard error while two steps of one micro-batch are taken."""
    joined = Mesh.join(MeshConfig(**mesh))
    module, family = built("decoder")
    engine = place(module, mesh=joined, table=family.sharding)
    batches = Batches(Read(family.name), 7, 4, 4)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        for step in range(2):
            engine.forward_backward(batches.objective, batches.at(step, joined.share))
    return {"said": said.getvalue()}, {}
