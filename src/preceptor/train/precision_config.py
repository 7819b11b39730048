"""In which numbers a model is computed; settings without torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionConfig:
    """In which numbers matrix products are computed. Weights, their updates and sums are always kept in float32."""

    kind: Literal["float32", "bfloat16", "float16", "float8"] = "float32"
    """bfloat16 and float16 halve the memory of activations and are faster on GPUs; float8 computes the products of the
    hidden layers in 8 bits where the GPU has them, the rest in bfloat16."""
    loss_scale: float = 65536.0
    """float16: what the mean loss is multiplied by at first, so that small gradients are not lost; it is halved when
    gradients overflow."""
    loss_scale_growth_steps: int = 2000
    """float16: after how many steps without overflow the scale is doubled."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if not self.loss_scale > 0:
            raise ValueError(f"loss_scale must be above 0, got {self.loss_scale}")
        if self.loss_scale_growth_steps < 1:
            raise ValueError(f"loss_scale_growth_steps must be at least 1, got {self.loss_scale_growth_steps}")
