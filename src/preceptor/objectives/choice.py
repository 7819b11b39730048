"""Which objective a setting asks for, and which family of models can be trained by it."""

from typing import Any

from preceptor.core.errors import ConfigError
from preceptor.objectives.causal import CausalObjective
from preceptor.objectives.masked import MaskedObjective
from preceptor.objectives.objective_config import ObjectiveConfig, require_fit
from preceptor.objectives.permutation import PermutationObjective
from preceptor.objectives.prefix import PrefixObjective
from preceptor.objectives.spans import SpanObjective
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer

BY_SOURCE = ("causal", "masked", "permuted")
"""Objectives whose rows can hold one source each, so that sources can be blended."""
StreamObjective = CausalObjective | MaskedObjective | PermutationObjective | PrefixObjective | SpanObjective


def objective_for(
    config: ObjectiveConfig,
    stream: TokenStream,
    context_length: int,
    tokenizer: Tokenizer,
    seed: int,
    model_config: Any,
    *,
    by_source: bool = False,
) -> StreamObjective:
    """The objective over a stream of tokens, for a model of this configuration.

    Raises:
        ConfigError: it does not train this family, cannot blend sources, or the tokenizer lacks what stands for hidden
            tokens.
    """
    family = model_config.family
    require_fit(config, family)
    if by_source and config.kind not in BY_SOURCE:
        raise ConfigError(
            f"the objective {config.kind!r} cannot blend sources by weight",
            path="data.mixture.kind",
            remedy='set data.mixture.kind = "proportional" and give sources no weights or caps',
        )
    end = tokenizer.end_of_text_id
    if config.kind == "causal":
        return CausalObjective(stream, context_length, end, config, by_source=by_source)
    if config.kind == "permuted":
        return PermutationObjective(stream, context_length, end, config=config, seed=seed, by_source=by_source)
    if config.kind == "masked":
        if not tokenizer.has_mask:
            raise ConfigError(
                "the tokenizer has no token that stands for a hidden one",
                path="tokenizer.mask_token",
                remedy="set tokenizer.mask_token = true",
            )
        return MaskedObjective(stream, context_length, tokenizer, config, seed, by_source=by_source)
    start = model_config.decoder_start_token_id if family == "encoder_decoder" else end
    if config.kind == "prefix":
        is_two_sided = family == "encoder_decoder"
        return PrefixObjective(stream, context_length, end, config, seed, start_id=start if is_two_sided else None)
    return SpanObjective(
        stream, context_length, tokenizer, config, seed, start_id=start, is_one_sided=family == "decoder"
    )
