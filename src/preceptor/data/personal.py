"""Personal data and secrets: what is looked for, and what stands in its place.

Every recogniser starts from a rare sign and reads a bounded stretch around it, so that its time grows in line with the
text, and a text without the sign costs next to nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from preceptor.core.errors import ConfigError
from preceptor.core.files import require_file
from preceptor.data import contacts, person_names
from preceptor.data.national_ids import find_national_ids
from preceptor.data.network_addresses import find_ip_addresses, find_mac_addresses, find_url_credentials
from preceptor.data.payments import find_cards, find_ibans
from preceptor.data.pseudonyms import MIN_KEY_BYTES, Pseudonyms
from preceptor.data.secrets import find_keys, find_private_keys
from preceptor.data.spans import Recogniser, Span, View, merged

Action = Literal["placeholder", "pseudonym", "drop", "keep"]

_RECOGNISERS: dict[str, Recogniser] = {
    "private-key": find_private_keys,
    "url-credentials": find_url_credentials,
    "key": find_keys,
    "email": contacts.find_emails,
    "mac-address": find_mac_addresses,
    "ip-address": find_ip_addresses,
    "iban": find_ibans,
    "card": find_cards,
    "national-id": find_national_ids,
}
KINDS = (*_RECOGNISERS, "phone")
"""The structured kinds, in the order in which they claim a piece of text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonalConfig:
    """What is done with personal data."""

    kinds: tuple[str, ...] = KINDS
    """The structured kinds that are looked for; empty for none."""
    action: Action = "placeholder"
    """A typed placeholder, a keyed pseudonym, dropping the document, or keeping what was found and counting it."""
    actions: dict[str, str] = field(default_factory=dict)
    """The action for a kind where it is another."""
    key_file: str = ""
    """A secret file of at least 16 bytes, from which pseudonyms are made."""
    person_model: str = ""
    """The name of an installed spaCy model, or the folder of a token classifier, that finds names of people."""
    phone_regions: tuple[str, ...] = ("US", "GB", "DE", "FR", "AU", "JP", "IR", "IN", "CN", "ES", "IT")
    """The countries whose way of writing telephone numbers without a country code is known."""

    def __post_init__(self) -> None:
        """Refuse kinds and actions that there are not, and pseudonyms without a key."""
        for name, kinds in (("kinds", self.kinds), ("actions", tuple(self.actions))):
            known = KINDS if name == "kinds" else (*KINDS, "person")
            for kind in kinds:
                if kind not in known:
                    raise ValueError(f"{name} must be among {', '.join(known)}, got {kind!r}")
        for action in self.actions.values():
            if action not in get_args(Action):
                raise ValueError(f"actions must be among {', '.join(get_args(Action))}, got {action!r}")
        if "pseudonym" in (self.action, *self.actions.values()) and not self.key_file:
            raise ValueError("key_file must name a secret file where the action is pseudonym, got ''")
        for region in self.phone_regions:
            if len(region) != 2 or not region.isascii() or not region.isupper():
                raise ValueError(f"phone_regions must be ISO 3166 codes such as GB, got {region!r}")

    def action_of(self, kind: str) -> str:
        """What is done with a kind."""
        return self.actions.get(kind, self.action)


@dataclass(frozen=True, slots=True)
class Redaction:
    """A text after redaction, how many spans of each kind it had, and whether the document is to be dropped."""

    text: str
    counts: dict[str, int]
    drop: bool = False


class Redactor:
    """What finds personal data in texts and puts something else in its place. It can be sent to a worker.

    Raises:
        ConfigError: the key file cannot be read or is too short, or there is no such model.
    """

    def __init__(self, config: PersonalConfig) -> None:
        self.config = config
        self._pseudonyms = Pseudonyms(_read_key(config.key_file)) if config.key_file else None
        self._set_up()

    def _set_up(self) -> None:
        self._recognisers: list[Recogniser] = [_RECOGNISERS[kind] for kind in _RECOGNISERS if kind in self.config.kinds]
        if "phone" in self.config.kinds:
            self._recognisers.append(contacts.phone_recogniser(self.config.phone_regions))
        self._find_names = person_names.load(self.config.person_model) if self.config.person_model else None

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "_pseudonyms": self._pseudonyms}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_up()

    @property
    def key_fingerprint(self) -> str:
        """What changes when the key does, and gives nothing of it away; empty without a key."""
        return self._pseudonyms.fingerprint if self._pseudonyms else ""

    def find(self, text: str) -> list[Span]:
        """All personal spans of a text from left to right; where two overlap, the kind that claims first stays."""
        if not text:
            return []
        view = View.of(text)
        taken: list[Span] = []
        for recognise in self._recognisers:
            taken = merged(taken, recognise(view))
        taken = [view.placed(span) for span in taken]
        if self._find_names:
            taken = merged(taken, person_names.find_persons(text, self._find_names))
        return taken

    def redact(self, text: str) -> Redaction:
        """The text with what the configuration says in place of each personal span."""
        spans = self.find(text)
        if not spans:
            return Redaction(text, {})
        drop = any(self.config.action_of(span.kind) == "drop" for span in spans)
        return Redaction(self._replaced(text, spans), _counted(spans), drop)

    def _replaced(self, text: str, spans: Iterable[Span]) -> str:
        pieces, place = [], 0
        for span in spans:
            pieces += [text[place : span.start], self._substitute(span.kind, text[span.start : span.end])]
            place = span.end
        return "".join(pieces) + text[place:]

    def _substitute(self, kind: str, found: str) -> str:
        action = self.config.action_of(kind)
        if action == "keep":
            return found
        if action == "pseudonym" and self._pseudonyms:
            return self._pseudonyms.substitute(kind, found)
        return f"<{kind}>"


def _counted(spans: Iterable[Span]) -> dict[str, int]:
    counts = dict[str, int]()
    for span in spans:
        counts[span.kind] = counts.get(span.kind, 0) + 1
    return counts


def _read_key(path: str) -> bytes:
    try:
        require_file(Path(path))
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"key_file {path!r} cannot be read: {error.strerror}",
            path="data.personal.key_file",
            remedy="make one, for example with: head -c 32 /dev/urandom | base64 > key",
        ) from error
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"key_file {path!r} holds {len(key)} bytes, which can be guessed",
            path="data.personal.key_file",
            remedy=f"use at least {MIN_KEY_BYTES} random bytes",
        )
    return key


_DEFAULT = Redactor(PersonalConfig())


def find(text: str, config: PersonalConfig | None = None) -> list[Span]:
    """All personal spans of a text from left to right."""
    return (Redactor(config) if config else _DEFAULT).find(text)


def redact(text: str) -> tuple[str, dict[str, int]]:
    """The text with a typed placeholder for each personal span, and how many of each kind there were."""
    redaction = _DEFAULT.redact(text)
    return redaction.text, redaction.counts
