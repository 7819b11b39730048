"""Published models by name: their shapes in the words of transformers' config files, and their parameters."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from preceptor.core.errors import ConfigError
from preceptor.models.decoder_sizes import DECODERS
from preceptor.models.encoder_sizes import ENCODERS
from preceptor.models.size_groups import Family, NamedSize

__all__ = ["NAMED_SIZES", "Family", "NamedSize", "named", "names"]

NAMED_SIZES: Mapping[str, NamedSize] = MappingProxyType(
    {size.name: size for group in (*DECODERS, *ENCODERS) for size in group.sizes()}
)


def names(family: Family | None = None) -> list[str]:
    """The names that there are, of one family or of all."""
    return [name for name, size in NAMED_SIZES.items() if family in (None, size.family)]


def named(name: str) -> NamedSize:
    """The size of that name; capitals make no difference.

    Raises:
        ConfigError: there is none; the nearest names are said.
    """
    if found := NAMED_SIZES.get(name.lower()):
        return found
    nearest = difflib.get_close_matches(name.lower(), NAMED_SIZES, n=3)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"there are {', '.join(NAMED_SIZES)}"
    raise ConfigError(
        f"there is no named size {name!r}; {hint}",
        remedy="take one of the names, or give the shape itself",
        expected=", ".join(NAMED_SIZES),
        nearest=nearest[0] if nearest else "",
    )
