"""Pseudonyms: the same person gets the same substitute, which only the holder of the key can trace back."""

import hashlib
import hmac
import re
from collections.abc import Callable

from preceptor.data.contacts import PSEUDONYM_CALLING_CODE, PSEUDONYM_DOMAIN
from preceptor.data.spans import View

MIN_KEY_BYTES = 16
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "eo", "ia")
_WRITTEN_DOT = re.compile(r"\s*[\[({<]\s*(?:dot|\.|punkt|punto|point)\s*[\])}>]\s*|\s+dot\s+", re.IGNORECASE)
_WRITTEN_AT = re.compile(r"\s*[\[({<]\s*(?:at|@|ät|arroba|chez|bei)\s*[\])}>]\s*|\s+at\s+", re.IGNORECASE)


class Pseudonyms:
    """Substitutes made from a secret key; they depend on the kind, the value and the key alone, so no table is kept."""

    def __init__(self, key: bytes) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(f"key must be at least {MIN_KEY_BYTES} bytes, got {len(key)}")
        self._key = key

    @property
    def fingerprint(self) -> str:
        """What tells two keys apart without giving either away."""
        return self._digest("fingerprint", "").hex()[:16]

    def substitute(self, kind: str, found: str) -> str:
        """What stands in the place of a value that was found.

        It cannot be anybody's: it lies in a range that the standards keep free, and is not found again.
        """
        if kind == "person":
            return " ".join(self._name(word) for word in found.split())
        digest = self._digest(kind, canonical(kind, found))
        make = _MAKERS.get(kind)
        return make(digest, found) if make else f"<{kind}-{digest.hex()[:12]}>"

    def _name(self, word: str) -> str:
        """A name for a name: each word has its own, so that ``Ann Lee`` and ``Lee`` stay the same family."""
        digest = self._digest("person", word.casefold().strip(".,'’"))
        syllables = [_ONSETS[digest[at] % 16] + _VOWELS[digest[at + 1] % 8] for at in range(0, 6, 2)]
        name = "".join(syllables[: 2 + digest[-1] % 2]) + _ONSETS[digest[-2] % 14]
        return name.title() if word[:1].isupper() else name

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.new(self._key, f"{kind}\n{value}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def canonical(kind: str, found: str) -> str:
    """The value without its spelling: however an address or a number is written, it is the same one."""
    text = View.of(found).text
    if kind == "email":
        return re.sub(r"\s+|-\n", "", _WRITTEN_AT.sub("@", _WRITTEN_DOT.sub(".", text))).lower()
    if kind == "phone":
        return re.sub(r"\D", "", text)
    if kind in ("card", "iban", "mac-address", "national-id"):
        return re.sub(r"[\W_]", "", text).upper()
    if kind == "ip-address":
        return re.sub(r"[\[(](?:\.|dot)[\])]", ".", text).lower()
    return text.strip()


def _email(digest: bytes, found: str) -> str:
    return f"user-{digest.hex()[:12]}@{PSEUDONYM_DOMAIN}"


def _phone(digest: bytes, found: str) -> str:
    digits = f"{int.from_bytes(digest[:8], 'big') % 10**10:010d}"
    return f"{PSEUDONYM_CALLING_CODE} {digits[:3]} {digits[3:6]} {digits[6:]}"


def _ip_address(digest: bytes, found: str) -> str:
    if ":" in View.of(found).text:
        groups = [digest[at : at + 2].hex() for at in range(0, 8, 2)]
        return "100::" + ":".join(groups)
    return f"{240 + digest[0] % 15}.{digest[1]}.{digest[2]}.{1 + digest[3] % 254}"


_MAKERS: dict[str, Callable[[bytes, str], str]] = {
    "email": _email, "phone": _phone, "ip-address": _ip_address,
}  # fmt: skip
