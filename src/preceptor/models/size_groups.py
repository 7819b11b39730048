"""What is known of a published model, and of a group of models that share an architecture."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Family = Literal["decoder", "encoder", "two_stream", "encoder_decoder"]
Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedSize:
    """The shape of a published model."""

    name: str
    """What it is called here."""
    family: Family
    """Which of our families it belongs to."""
    model_type: str
    """What transformers calls its architecture."""
    config: Mapping[str, Any]
    """The keys of transformers' config.json that define the shape."""
    num_parameters: int
    """Parameters that training moves, with the head of pre-training (of an encoder, that of the masked language model,
    without BERT's pooler and next-sentence head); weights used twice count once."""
    published: str
    """What its publication says: 124M, 1.5B, or every digit."""
    agrees: bool
    """Whether `num_parameters` rounds to what was published. Zeros at the end of a whole number are no digits of it."""
    note: str
    """Why the two differ, or what else the shape departs from."""
    source: str
    """Where the shape and the published figure stand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeGroup:
    """Models that share an architecture: the values that they share, and a row for each of what they do not."""

    family: Family
    model_type: str
    source: str
    shared: Mapping[str, Any]
    columns: str
    """The keys whose values begin each row; behind them stand the parameters, the published figure, perhaps a note."""
    rows: Mapping[str, Row]
    differs: Mapping[str, str] = field(default_factory=dict)
    """Why the published figure is another, for the models where it is."""

    def sizes(self) -> Iterator[NamedSize]:
        """Every model of the group."""
        keys = self.columns.split()
        for name, row in self.rows.items():
            num_parameters, published, *note = row[len(keys) :]
            yield NamedSize(
                name=name,
                family=self.family,
                model_type=self.model_type,
                config=MappingProxyType({**self.shared, **dict(zip(keys, row, strict=False))}),
                num_parameters=num_parameters,
                published=published,
                agrees=name not in self.differs,
                note=" ".join([*note, *filter(None, [self.differs.get(name)])]),
                source=self.source,
            )
