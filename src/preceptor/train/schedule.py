"""The learning rate of a step as a closed form of the step."""

import math

from preceptor.train.optim_config import ScheduleConfig


def learning_rate_factor(config: ScheduleConfig, step: int, num_steps: int) -> float:
    """The share of the peak learning rate at a step, counted from 0.

    Source: Vaswani et al. 2017, section 5.3, for the inverse root; Loshchilov and Hutter 2017, SGDR, for restarts; Hu
    et al. 2024, MiniCPM, for warm-up, stable, decay.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = config.warmup_steps
    if config.kind == "warmup-stable-decay":
        start = max(start, num_steps - round(config.decay_fraction * num_steps))
    progress = max(0, step - start) / max(1, num_steps - start)
    match config.kind:
        case "constant":
            return 1.0
        case "step":
            return float(config.drop ** ((step - start) // config.drop_every_steps))
        case "exponential":
            return float(config.final_fraction**progress)
        case "inverse-sqrt":
            return math.sqrt(max(1, start) / max(1, step))
    progress = progress * config.cycles % 1.0
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if config.kind == "cosine" else 1 - progress
    return config.final_fraction + (1 - config.final_fraction) * fall
