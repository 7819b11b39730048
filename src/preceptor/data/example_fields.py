"""The columns of one row by our names, each asked for as what it must be."""

import json
from collections.abc import Mapping, Sequence

from preceptor.data.document import is_encodable
from preceptor.data.example_types import Message
from preceptor.data.record_files import STRICT_JSON

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


class UnfitError(ValueError):
    """Why a row is no example."""


class Fields:
    """The columns of a row that hold something, where it stands, and what of it every example has."""

    def __init__(self, columns: Mapping[str, object], place: str) -> None:
        self._columns = {name: value for name, value in columns.items() if value is not None}
        self.empty = columns.keys() - self._columns.keys()
        """The columns that hold nothing."""
        self.place = place

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [str(name) for name in self._columns]

    def value(self, name: str) -> object:
        """What a column holds.

        Raises:
            UnfitError: there is nothing.
        """
        if name not in self._columns:
            raise UnfitError(f"{name} is missing")
        return self._columns[name]

    def parsed(self, name: str) -> object:
        """What a column holds, where a list or an object may be written as JSON, as tables have to.

        Raises:
            UnfitError: there is nothing.
        """
        value = self.value(name)
        if isinstance(value, str) and value[:1] in "[{" and value[-1:] in "]}":
            try:
                return STRICT_JSON.decode(value)
            except (ValueError, RecursionError):
                return value
        return value

    def text(self, name: str) -> str:
        """The text of a column.

        Raises:
            UnfitError: it is no text, or empty.
        """
        return text_of(self.value(name), name)

    def optional(self, name: str) -> str:
        """The text of a column, empty where there is none."""
        value = self._columns.get(name)
        return encodable(value) if isinstance(value, str) and value.strip() else ""

    def items(self, name: str) -> list[object]:
        """The list of a column.

        Raises:
            UnfitError: it is none.
        """
        value = self.parsed(name)
        if not isinstance(value, list):
            raise UnfitError(f"{name} is {kind_of(value)}, not a list")
        return value

    def words(self, name: str) -> list[str]:
        """The list of a column as texts; one text is split at its white space.

        Raises:
            UnfitError: it is neither, or one of them is empty.
        """
        value = self.parsed(name)
        found = value.split() if isinstance(value, str) else self.items(name)
        return [label_of(each, name) for each in found]

    def group(self, otherwise: str) -> str:
        """The group that the row names, or else another."""
        value = self._columns.get("group")
        return otherwise if value is None or value == "" else encodable(str(value))

    @property
    def kind(self) -> str:
        """The sort of example that the row names."""
        return self.optional("kind")

    def messages(self, name: str) -> list[Message]:
        """The messages of a column, or one of the user where it is a text.

        Raises:
            UnfitError: one of them is not what a message should be.
        """
        # A text that is asked for may well be JSON itself.
        if isinstance(self.value(name), str) and name not in ("messages", "conversations"):
            return [Message("user", self.text(name))]
        return [_message(each, number) for number, each in enumerate(self.items(name), 1)]


def _message(value: object, number: int) -> Message:
    """A message as OpenAI or as ShareGPT write it."""
    if not isinstance(value, Mapping):
        raise UnfitError(f"message {number} is {kind_of(value)}, not an object")
    role = value.get("role", value.get("from"))
    if not isinstance(role, str) or role not in _ROLES:
        raise UnfitError(f"the role of message {number} is {json.dumps(role)[:40]}, not system, user or assistant")
    content = value.get("content", value.get("value"))
    if isinstance(content, list):
        content = "".join(_part(each, number) for each in content)
    said = text_of(content, "answer" if _ROLES[role] == "assistant" else f"message {number}")
    weight = value.get("weight")
    if weight not in (None, 0, 1):
        raise UnfitError(f"the weight of message {number} is {weight!r}, not 0 or 1")
    return Message(_ROLES[role], said, weight != 0)


def _part(value: object, number: int) -> str:
    text = value.get("text") if isinstance(value, Mapping) and value.get("type", "text") == "text" else None
    if not isinstance(text, str):
        raise UnfitError(f"message {number} has a part that is no text")
    return text


def kind_of(value: object) -> str:
    """What a value of JSON is, in words."""
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def text_of(value: object, name: str) -> str:
    """The value as a text.

    Raises:
        UnfitError: it is none, or empty.
    """
    if not isinstance(value, str):
        raise UnfitError(f"{name} is {kind_of(value)}, not text")
    if not value.strip():
        raise UnfitError(f"{name} is empty")
    return encodable(value)


def label_of(value: object, name: str) -> str:
    """The value as the name of a class.

    Raises:
        UnfitError: it is no name, or empty.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else text_of(value, name).strip()


def encodable(value: str) -> str:
    """The text itself.

    Raises:
        UnfitError: it is none that can be written as UTF-8.
    """
    if not (value.isascii() or is_encodable(value)):
        raise UnfitError("half of a surrogate pair, which is no text")
    return value


def folded(texts: Sequence[str]) -> str:
    """Texts as one, without what white space and capitals tell apart."""
    return "\n".join(" ".join(text.casefold().split()) for text in texts)
