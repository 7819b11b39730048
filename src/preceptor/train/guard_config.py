"""When a step is kept from the weights; settings without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """What keeps bad steps from the weights: skip, then roll back, then stop.

    A step whose loss or gradient is not finite is always skipped.
    """

    spike_deviations: float = 6.0
    """A loss or gradient norm so many standard deviations above the mean of the recent steps is a spike; 0 lets all
    finite steps pass."""
    window_steps: int = 128
    """How many recent steps the mean and the deviation are taken over; skipped steps are never among them."""
    min_steps: int = 32
    """How many steps must be known before anything counts as a spike."""
    skips_before_rollback: int = 3
    """After how many skipped steps in a row the run goes back to its newest checkpoint, and passes over what lies
    between."""
    max_rollbacks: int = 2
    """How many times a run may go back; after that it stops."""
    verify_every_steps: int = 0
    """How often the gradients of a step are computed twice and compared bit by bit, which finds faulty hardware; 0 only
    compares where a step is bad."""

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name in ("spike_deviations", "max_rollbacks", "verify_every_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("min_steps", "skips_before_rollback"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.window_steps < self.min_steps:
            raise ValueError(f"window_steps must be at least min_steps ({self.min_steps}), got {self.window_steps}")
