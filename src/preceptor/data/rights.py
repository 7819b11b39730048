"""By what right a document may train: its licence as an SPDX expression, and the policy that judges it."""

from functools import cache
from typing import Any

from preceptor.core.errors import ConfigError
from preceptor.data.document import UNKNOWN_LICENCE


@cache
def _licensing() -> Any:
    # The table of licences takes 50 ms to load, which no command that reads no licence should pay.
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@cache
def normalise_licence(text: str, where: str) -> str:
    """The SPDX expression in its canonical form, or ``unknown``.

    Raises:
        ConfigError: the text is neither; ``where`` names the place it was read from.
    """
    if text.strip().lower() in ("", UNKNOWN_LICENCE):
        return UNKNOWN_LICENCE
    from license_expression import ExpressionError

    try:
        parsed = _licensing().parse(text, validate=True)
    except ExpressionError as error:
        raise ConfigError(
            f"{where}: {text!r} is not an SPDX licence expression",
            path=where,
            expected='for example "MIT", "CC-BY-4.0" or "Apache-2.0 OR MIT"',
            remedy='write an SPDX expression such as "CC-BY-4.0", or "unknown"',
        ) from error
    return str(parsed.render())
