"""What cannot be cut within layers, said before anything is."""

from torch import nn

from preceptor.core.errors import ConfigError
from preceptor.models.language_model import LanguageModel
from preceptor.nn.attention import Attention
from preceptor.nn.layers import FeedForward
from preceptor.nn.normal_float import NormalFloatLinear
from preceptor.nn.relative import RelativeAttention
from preceptor.parallel.mesh import Mesh

_ALONG_TOKENS = ("decoder", "encoder")
"""Families whose residual stream can be cut along the tokens."""


def require_splittable(model: nn.Module, mesh: Mesh, has_roles: bool) -> None:
    """Refuse a model whose layers cannot be cut into so many parts.

    Raises:
        ConfigError: says why, and names the nearest number of parts that works.
    """
    tensor = mesh.sizes.tensor
    if not has_roles:
        raise _refused("nothing says how the layers of this model can be cut", 1)
    if any(isinstance(module, NormalFloatLinear) for module in model.modules()):
        raise in_four_bits()
    for name, count in _counts(model).items():
        if count % tensor:
            nearest = next(n for n in range(tensor, 0, -1) if not any(each % n for each in _counts(model).values()))
            raise _refused(f"{tensor} parts do not divide {name} ({count}) evenly", nearest)
    if any(isinstance(module, Attention) and module.shape.qk_norm == "width" for module in model.modules()):
        raise _refused('qk_norm = "width" normalises all heads of a token together', 1)
    if mesh.config.sequence_parallel:
        _require_tokens_apart(model)
        if mesh.sizes.pipeline > 1:
            raise sequence_refused("states travel whole from one stage of a pipeline to the next")


def _counts(model: nn.Module) -> dict[str, int]:
    """What must stay whole or be alike everywhere, so that the parts do the same work and draw as much dropout."""
    found: dict[str, int] = {}
    for module in model.modules():
        if isinstance(module, Attention):
            found["num_attention_heads"] = module.shape.num_attention_heads
            found["num_key_value_heads"] = module.shape.num_key_value_heads
        elif isinstance(module, RelativeAttention):
            found["num_attention_heads"] = module.heads[0]
        elif isinstance(module, FeedForward):
            found["intermediate_size"] = module.intermediate_size
    return found


def _require_tokens_apart(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, LanguageModel):
            family = module.config.family
            if family not in _ALONG_TOKENS:
                raise sequence_refused(f"the layers of the family {family} read more than one stream of tokens")
            if module.config.layer_drop:
                raise sequence_refused("with layer_drop the first and the last layer, where tokens part, may not run")


def sequence_refused(why: str) -> ConfigError:
    """The error that says why the residual stream cannot be cut along the tokens."""
    return ConfigError(
        f"mesh.sequence_parallel: {why}",
        path="mesh.sequence_parallel",
        remedy="set mesh.sequence_parallel = false, or change what stands in its way",
    )


def in_four_bits() -> ConfigError:
    """The error of a base in 4 bits whose layers would be cut."""
    return _refused("weights in 4 bits share scales across the cut", 1, "train the adapter on a base that is not")


def _refused(why: str, nearest: int, other: str = "use mesh.shard for the rest") -> ConfigError:
    return ConfigError(f"mesh.tensor: {why}", path="mesh.tensor", remedy=f"set mesh.tensor = {nearest}, or {other}")
