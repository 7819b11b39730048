"""Text of strangers, made safe to look at: what would steer a terminal or turn the direction of a line is shown."""

_SYMBOLS = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)} | {127: chr(0x2421)}
# Control characters of the second set, and those that change the direction of what follows.
_SYMBOLS |= {code: f"[U+{code:04X}]" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
# Halves of surrogate pairs, which no output can encode.
_SYMBOLS |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def visible(text: object) -> str:
    """The text with control characters and changes of direction made visible."""
    return str(text).translate(_SYMBOLS)
