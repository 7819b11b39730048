"""Prompt tuning: trained vectors in front of every document, in place of tokens; saved in peft's layout.

The vectors have ids of their own, behind those of the vocabulary. Whoever frames a document puts them in front, and
packing, masks and caches then treat them as tokens. The output layer has no such ids, so none is ever said.

Source: Lester et al. 2021.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.adapters.adapter import freeze
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.virtual_tokens import check_room, read_virtual_tokens, write_virtual_tokens
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.language_model import LanguageModel
from preceptor.nn.vocabulary import VocabularyShare

PEFT_TYPE = "PROMPT_TUNING"


class PromptEmbedding(nn.Embedding):
    """An embedding with rows behind those of its vocabulary. It owns the weight of the base under the base's name.

    Models that scale what they embed do not scale the prompt, as in peft.
    """

    vocabulary: VocabularyShare | None = None
    """Which rows of the vocabulary are held here, where they are dealt over processes; the prompt's always are."""

    def __init__(self, base: nn.Embedding, prompt_PD: Tensor, scale: float = 1.0) -> None:
        super().__init__(base.num_embeddings, base.embedding_dim, _weight=base.weight)
        self.weight = base.weight
        self.prompt_PD = nn.Parameter(prompt_PD)
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        """The embeddings, of shape ... D, of tokens and of the prompt's ids."""
        is_prompt = (tokens >= self.num_embeddings).unsqueeze(-1)
        ids, share = tokens.where(tokens < self.num_embeddings, 0), self.vocabulary
        words = super().forward(ids) if share is None else share.look_up(ids, super().forward)
        prompt_PD = (self.prompt_PD / self.scale).to(words.dtype)
        return torch.where(is_prompt, F.embedding((tokens - self.num_embeddings).clamp(min=0), prompt_PD), words)


def attach(
    model: LanguageModel,
    config: AdapterConfig,
    generator: torch.Generator | None = None,
    *,
    start_ids: Sequence[int] | None = None,
) -> LanguageModel:
    """The model whose embedding knows the prompt's ids, in place; what else of the model trains is left as it is.

    The vectors start as the embeddings of ``start_ids``, repeated or cut to length, else at random, as in peft.

    Raises:
        ConfigError: the prompt leaves no position for a document, there is no token to start from, or the embedding
            does more than look up.
    """
    num_tokens = check_room(model, config)
    if config.prompt_start != "random" and not start_ids:
        raise ConfigError(
            f"finetuning.adapter.prompt_start: there is no token of the {config.prompt_start} to start from",
            path="finetuning.adapter.prompt_start",
            remedy="give a text that is not empty, or start at random",
        )
    base, scale = model.input_embedding, _scale(model)
    if type(base).forward not in (nn.Embedding.forward, PromptEmbedding.forward):
        raise ConfigError(
            f"finetuning.adapter.kind: the embedding of this model is a {type(base).__name__}, which a prompt cannot "
            "stand in front of",
            path="finetuning.adapter.kind",
            remedy="choose lora or full",
        )
    if config.prompt_start == "random":
        drawn_PD = torch.empty(num_tokens, base.embedding_dim).normal_(generator=generator)
    else:
        assert start_ids is not None
        ids = [start_ids[place % len(start_ids)] for place in range(num_tokens)]
        drawn_PD = base.weight.detach()[ids].float() * scale
    return _put(model, drawn_PD)


def _scale(model: LanguageModel) -> float:
    """What the model multiplies embeddings by."""
    return float(model.config.hidden_size**0.5) if getattr(model.config, "scale_embedding", False) else 1.0


def _put(model: LanguageModel, prompt_PD: Tensor) -> LanguageModel:
    """The model with these vectors, in at least single precision; what prompt there was is dropped."""
    base = model.input_embedding
    dtype = torch.promote_types(base.weight.dtype, torch.float32)
    embedding = PromptEmbedding(base, prompt_PD.to(dtype=dtype, device=base.weight.device), _scale(model))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if child is base:
                setattr(module, name, embedding.train(base.training))
    return model


def virtual_ids(model: LanguageModel) -> list[int]:
    """The ids that must stand in front of every document; none where the model has no prompt."""
    embedding = model.input_embedding
    if not isinstance(embedding, PromptEmbedding):
        return []
    return [embedding.num_embeddings + place for place in range(len(embedding.prompt_PD))]


def save(model: LanguageModel, folder: Path, base: str) -> None:
    """Write the prompt in peft's layout; ``base`` is the id of the model below.

    Raises:
        OutputError: the folder cannot be written.
    """
    embedding = model.input_embedding
    assert isinstance(embedding, PromptEmbedding)
    write_virtual_tokens(
        model,
        embedding.prompt_PD,
        {
            "peft_type": PEFT_TYPE,
            "num_layers": model.config.num_hidden_layers,
            # Which peft reads of a prefix alone; not every configuration says it.
            "num_attention_heads": getattr(model.config, "num_attention_heads", 1),
            "token_dim": embedding.embedding_dim,
            "num_transformer_submodules": 1,
            "prompt_tuning_init": "RANDOM",
        },
        folder,
        base,
    )


def load(model: LanguageModel, folder: Path, base: str = "") -> LanguageModel:
    """The model with the prompt of a folder, in place; ``base`` is the model's id where it is known.

    Raises:
        ArtifactError: a file is missing or torn, or the prompt is of another model.
        MismatchError: its id says so.
    """
    table, rows_PD = read_virtual_tokens(folder, PEFT_TYPE, base)
    width = model.input_embedding.embedding_dim
    num_tokens = table.get("num_virtual_tokens", len(rows_PD))
    # peft has as many rows again for a decoder's side, which it does not read.
    if rows_PD.shape[1] != width or not 0 < num_tokens <= len(rows_PD):
        raise ArtifactError(
            f"{folder}: a prompt of shape {tuple(rows_PD.shape)} does not fit a model of width {width}",
            remedy=f"attach it to the model it was trained on: {table.get('base_model_name_or_path')}",
        )
    freeze(model)
    return _put(model, rows_PD[:num_tokens].clone())
