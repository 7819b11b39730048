"""The learning rate of a step as a closed form of the step."""

import math

from preceptor.train.run import ScheduleConfig


def learning_rate_factor(config: ScheduleConfig, step: int, num_steps: int) -> float:
    """The share of the peak learning rate at a step, counted from 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.kind == "constant":
        return 1.0
    start = config.warmup_steps
    if config.kind == "warmup-stable-decay":
        start = max(start, num_steps - round(config.decay_fraction * num_steps))
    if step < start:
        return 1.0
    progress = (step - start) / max(1, num_steps - start)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if config.kind == "cosine" else 1 - progress
    return config.final_fraction + (1 - config.final_fraction) * fall
