"""What a recipe says of its data: the sources, and everything that is done to their documents."""

from dataclasses import dataclass, field
from typing import Literal

from preceptor.data.augment import AugmentConfig
from preceptor.data.bias import BiasConfig
from preceptor.data.contamination import ContaminationConfig
from preceptor.data.filters import FilterConfig
from preceptor.data.mixture import MixtureConfig
from preceptor.data.outliers import OutlierConfig
from preceptor.data.overlap import OverlapConfig
from preceptor.data.personal import PersonalConfig
from preceptor.data.rights import RightsConfig
from preceptor.data.sources import SourceConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where documents come from and what is done to them."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(kind="python-docs", licence="PSF-2.0", consent="by-licence"),)
    """The sources, read one after the other; none where a base model is only fine-tuned."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """How the sources are blended while a model is trained."""
    on_bad_input: Literal["stop", "reject"] = "stop"
    """Whether a record that cannot be read stops the run or is left out and counted."""
    max_record_bytes: int = 10_000_000
    """Longest line of JSONL and largest text, HTML, PDF or EPUB file, unpacked."""
    rights: RightsConfig = field(default_factory=RightsConfig)
    """What may train: licences, consent, and who has asked to be left out."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """The limits of the filters."""
    outliers: OutlierConfig = field(default_factory=OutlierConfig)
    """What lies too far from the rest of the corpus."""
    overlap: OverlapConfig = field(default_factory=OverlapConfig)
    """What counts as said twice."""
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    """Evaluation sets that must not be trained on."""
    personal: PersonalConfig = field(default_factory=PersonalConfig)
    """What is done with personal data."""
    bias: BiasConfig = field(default_factory=BiasConfig)
    """Whose groups are counted in the datasheet."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    """Noisy copies of the training documents."""
    validation_fraction: float = 0.05
    """The share of documents that is kept for validation."""

    def __post_init__(self) -> None:
        """Refuse shares outside their range, and two sources of one name."""
        names = [source.label for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sources must have names of their own; set name where there are two of {twice[0]!r}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
        if self.max_record_bytes < 1:
            raise ValueError(f"max_record_bytes must be at least 1, got {self.max_record_bytes}")
