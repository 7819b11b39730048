"""Who is told of a training run's measures while it goes on."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from preceptor.core.errors import ConfigError

Logger = Literal["tensorboard", "wandb", "mlflow", "trackio"]
_MODULES = {"tensorboard": "tensorboardX"}
"""The module of a logger that does not have its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Who is told of every step, beside the metrics file; none of it changes the weights or what is made again."""

    loggers: tuple[Logger, ...] = ("tensorboard",)
    """Those who are told: "tensorboard" (files), "wandb" (Weights & Biases), "mlflow", "trackio". The last three have
    to be installed. All write on this machine alone, into metrics/ of the run's folder."""
    project: str = "preceptor"
    """The project, or experiment, under which Weights & Biases, MLflow and trackio keep the run."""
    name: str = ""
    """What they call the run; empty: the stage and the first digits of its key."""
    online: bool = False
    """Whether Weights & Biases sends what it is told to its server; otherwise it keeps it here, for `wandb sync`."""
    mlflow_uri: str = ""
    """An MLflow server to send to, as http://host:5000; empty: a database on this machine."""

    def __post_init__(self) -> None:
        """Refuse the same logger twice, and settings of one that is not asked for."""
        if len(set(self.loggers)) != len(self.loggers):
            raise ValueError(f"loggers names one twice: {', '.join(self.loggers)}")
        if self.online and "wandb" not in self.loggers:
            raise ValueError('online is for Weights & Biases: add "wandb" to loggers')
        if self.mlflow_uri and "mlflow" not in self.loggers:
            raise ValueError('mlflow_uri is for MLflow: add "mlflow" to loggers')
        if not self.project:
            raise ValueError("project must not be empty")


def require_loggers(config: TrackingConfig, key: str) -> None:
    """Refuse a logger that is not installed. ``key`` is where the settings stand in the recipe.

    Raises:
        ConfigError: names it, and how to install it.
    """
    for logger in config.loggers:
        module = _MODULES.get(logger, logger)
        if find_spec(module) is None:
            raise ConfigError(
                f"{key}.loggers names {logger!r}, which is not installed",
                path=f"{key}.loggers",
                remedy=f"install it (python -m pip install {module}), or leave it out",
            )
