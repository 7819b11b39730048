"""What a model is adapted to: one example of each kind of task, and the group that stays on one side of a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Task = Literal["instruct", "classify", "regress", "tag", "answer", "translate", "summarise", "prefer"]
"""instruct: say what an assistant would say; classify: classes of a text or of a pair; regress: numbers for them;
tag: a class for each word; answer: where in a text the answer to a question stands; translate and summarise: a target
for a source; prefer: the better of two answers."""


@dataclass(frozen=True, slots=True)
class Message:
    """What one side of a conversation says."""

    role: str
    """system, user or assistant."""
    content: str
    trains: bool = True
    """Whether what an assistant says here is to be learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExample:
    """What every example has."""

    group: str
    """Examples of one group stay on one side of a split."""
    kind: str = ""
    """What sort of example it is, where scores are to be told apart."""
    place: str = ""
    """Where it was read: the file and the line or row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation(TaskExample):
    """Messages, of which those of the assistant are learned."""

    messages: tuple[Message, ...]

    @property
    def question(self) -> str:
        """What the last answer is an answer to."""
        return self.messages[-2].content if len(self.messages) > 1 else ""

    @property
    def answer(self) -> str:
        """What is said last."""
        return self.messages[-1].content

    @classmethod
    def of(cls, question: str, answer: str, *, group: str = "", kind: str = "", place: str = "") -> "Conversation":
        """One question with its answer; it is a group of its own where none is named."""
        said = (Message("user", question), Message("assistant", answer))
        return cls(messages=said, group=group or question, kind=kind, place=place)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassExample(TaskExample):
    """A text, or a pair of texts, and its class; several or none where the task lets it have them."""

    text: str
    second: str | None = None
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberExample(TaskExample):
    """A text, or a pair of texts, and its numbers."""

    text: str
    second: str | None = None
    targets: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedExample(TaskExample):
    """Words, and a tag for each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerExample(TaskExample):
    """A question, the text that is asked, and where in it answers stand; none where the text does not say."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    """Each answer, and the character of the context at which it begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairExample(TaskExample):
    """A text and what is to be made of it: its translation, its summary."""

    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceExample(TaskExample):
    """What was said, the answer that is preferred, and one that is not."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str


AnyExample = (
    Conversation | ClassExample | NumberExample | TaggedExample | AnswerExample | PairExample | PreferenceExample
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSet:
    """The examples of one task, what they may be labelled with, and what was refused on the way."""

    task: Task
    examples: Sequence[AnyExample]
    labels: tuple[str, ...] = ()
    """The classes or tags that occur, in order."""
    multi_label: bool = False
    """Whether a text may have several classes, or none."""
    shape: str = ""
    """In which shape of the field they came, such as "alpaca" or "text/label"."""
    rejected: tuple[tuple[str, str], ...] = ()
    """Where a row stands that was refused, and why."""
    notes: tuple[str, ...] = ()
    """What was decided on the way, such as whether whole numbers are classes."""
