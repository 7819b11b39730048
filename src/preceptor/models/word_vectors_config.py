"""Which word vectors an embedding starts from; a setting, which needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class WordVectorsConfig:
    """Which word vectors the embedding starts from, and whether training may move it."""

    path: str = ""
    """A Word2Vec .bin, a GloVe .txt or a fastText .vec, also gzip-compressed; empty starts from random numbers."""
    freeze: bool = False
    """Whether the embedding stays as it starts; where the output layer shares its weights, that stays too."""
    lowercase: bool = True
    """Whether a word that the file lacks is looked up again in small letters."""
    std: float = 0.0
    """Standard deviation of the rows that are filled; 0 takes that of the model's other starting rows."""

    def __post_init__(self) -> None:
        """Refuse what cannot hold."""
        if self.freeze and not self.path:
            raise ValueError("freeze needs a path: an embedding of random numbers must be trained")
        if not 0 <= self.std < float("inf"):
            raise ValueError(f"std must be a finite number of 0 or more, got {self.std}")
