"""What a language-model loss adds to the plain one, and over whose logits it runs."""

from dataclasses import dataclass

from preceptor.nn.vocabulary import VocabularyShare


@dataclass(frozen=True, slots=True)
class LossOptions:
    """How the loss of a token follows from its logits."""

    softcap: float | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    vocabulary: VocabularyShare | None = None
    """The part of the vocabulary whose logits are made here; None makes those of all."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"softcap must be above 0, not {self.softcap}; leave it out for plain logits")
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, not {self.label_smoothing}")
        if not self.z_loss >= 0:
            raise ValueError(f"z_loss must be 0 or above, not {self.z_loss}")
