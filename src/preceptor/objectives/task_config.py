"""Which families of models can learn a task; known without torch."""

from preceptor.core.errors import ConfigError
from preceptor.data.example_types import Task

WRITING: tuple[Task, ...] = ("instruct", "translate", "summarise")
"""Tasks whose answer is text that the model writes."""
_ABLE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(WRITING, ("decoder", "encoder_decoder", "foreign")),
    **dict.fromkeys(("tag", "answer"), ("encoder", "decoder", "two_stream", "foreign")),
    **dict.fromkeys(("classify", "regress"), ("encoder", "decoder", "two_stream", "encoder_decoder", "foreign")),
    "prefer": ("decoder", "foreign"),
}


def require_task(task: Task, family: str) -> None:
    """Refuse a task that a family of models cannot learn.

    Raises:
        ConfigError: names the families that can.
    """
    if family not in _ABLE[task]:
        able = " or ".join(each for each in _ABLE[task] if each != "foreign")
        raise ConfigError(
            f"the task {task!r} cannot be learned by a model of the family {family!r}",
            path="finetuning.task",
            expected=f"a model of the family {able}",
            remedy=f"choose a base model of the family {able}, or another task",
        )
