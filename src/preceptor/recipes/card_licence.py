"""Under which licence a model card says a model is: what its parts are under, and no guess."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor.data.document import UNKNOWN_LICENCE
from preceptor.data.spdx import spdx
from preceptor.recipes.export_source import ExportSource

_OF_THE_HUB = {
    **{
        name: name.lower()
        for name in (
            *("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"),
            *("CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"),
            *("MPL-2.0", "ODC-By-1.0", "ODbL-1.0", "PDDL-1.0", "Unlicense", "WTFPL", "Zlib", "ISC", "EUPL-1.1"),
        )
    },
    **{f"GPL-{number}-only": f"gpl-{number}" for number in ("2.0", "3.0")},
    **{f"GPL-{number}-or-later": f"gpl-{number}" for number in ("2.0", "3.0")},
    **{f"LGPL-{number}-only": f"lgpl-{number}" for number in ("2.1", "3.0")},
    **{f"LGPL-{number}-or-later": f"lgpl-{number}" for number in ("2.1", "3.0")},
    **dict.fromkeys(("AGPL-3.0-only", "AGPL-3.0-or-later"), "agpl-3.0"),
    "ODC-By-1.0": "odc-by",
    "ODbL-1.0": "odbl",
    "PDDL-1.0": "pddl",
}
"""SPDX ids and what the Hugging Face Hub calls them."""


@dataclass(frozen=True, slots=True)
class Licence:
    """What the front matter says, and what the card does."""

    id: str
    """One that the Hub knows, or "other"."""
    name: str
    """What an "other" one is called."""
    told: str
    """In words, with everything that bears on it."""


def licence_of(source: ExportSource, sheets: Sequence[Mapping[str, Any]]) -> Licence:
    """The licence of a model: that of all its parts where they share one, else "other" and the list of them."""
    parts: list[tuple[str, str]] = []
    for sheet in sheets:
        parts += [(licence, f"{count:,} documents") for licence, count in sheet["licences"].items()]
    base = source.run.base.model
    if base:
        name = source.hub_base or base.rsplit("/", 1)[-1]
        parts.append((_told(source.run.base.licence), f"the base model {name}"))
    config = source.run.finetuning
    if source.adapter is not None and config.examples != "python-docs":
        parts.append((_told(config.licence), f"the examples {config.examples.rsplit('/', 1)[-1]}"))
    found = {licence for licence, _ in parts}
    listed = "; ".join(f"{licence}: {what}" for licence, what in parts)
    only = next(iter(found)) if len(found) == 1 else ""
    if only in _OF_THE_HUB:
        return Licence(_OF_THE_HUB[only], only, f"All of it is under one licence, {only}, which this card names.")
    if only and only not in (UNKNOWN_LICENCE, "not recorded"):
        slug = re.sub(r"[^a-z0-9.+-]+", "-", only.lower()).strip("-")
        return Licence("other", slug, f"All of it is under one licence: {only}.")
    told = f"Its parts are under these licences, of which none is chosen here: {listed or 'none is recorded'}."
    return Licence("other", "mixed" if len(found) > 1 else "not-recorded", told)


def _told(licence: str) -> str:
    return "not recorded" if licence == UNKNOWN_LICENCE else spdx(licence) or licence
