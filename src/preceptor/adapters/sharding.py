"""How the weights of an adapted model may be cut over processes: the family's table, with what adapters added."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn

from preceptor.adapters.low_rank import LowRankLayer
from preceptor.adapters.low_rank_targets import low_rank_layers
from preceptor.core.errors import ConfigError

_PREFIX = ("prefix_network.",)
_CHANGES = {
    # A change s B A is cut where its layer is: B along what the layer gives, A along what it reads. The other matrix
    # stays whole, and each process sees a part of its work.
    "column": {"lora_A": "partial", "lora_B": "column", "lora_magnitude": "column", "squares_O": "column"},
    "row": {"lora_A": "row", "lora_B": "partial"},
    # Of an embedding, A has a column for each token.
    "vocabulary": {"lora_embedding_A": "row", "lora_embedding_B": "partial"},
}


def sharding_of(model: nn.Module, table: Mapping[str, str]) -> dict[str, str]:
    """How each weight of a model is cut, by its exact name; ``table`` is what its family says of the plain model.

    ``partial`` are weights that stay whole while each process knows only a summand of their gradients.

    Raises:
        ConfigError: a length that is trained by itself would be one of weights of several processes.
    """
    found, layers = {}, low_rank_layers(model)
    for name in (*dict(model.named_parameters()), *dict(model.named_buffers())):
        owner, _, own = name.rpartition(".")
        if owner in layers:
            role = _of_change(owner, own, layers[owner], table)
        elif name.startswith(_PREFIX):
            role = "partial"
        else:
            role = _of_base(name.replace(".base_layer.", "."), table)
        if role:
            found[name] = role
    return found


def _of_base(name: str, table: Mapping[str, str]) -> str | None:
    return next((role for pattern, role in table.items() if fnmatchcase(name, pattern)), None)


def _of_change(owner: str, own: str, layer: LowRankLayer, table: Mapping[str, str]) -> str | None:
    role = _of_base(f"{owner}.weight", table)
    if role is None:
        return None
    if layer.lora_magnitude is not None and role != "column":
        raise ConfigError(
            f"mesh.tensor: {owner} has magnitudes, each the length of weights that would be on several processes",
            path="mesh.tensor",
            remedy="set mesh.tensor = 1, or finetuning.adapter.magnitude = false, or leave the layer out of "
            "finetuning.adapter.target_modules",
        )
    return _CHANGES[role].get(own)
