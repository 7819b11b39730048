"""Grams of CO2e for a kilowatt-hour of a country's electricity, from the tables that ship with codecarbon."""

import difflib
import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Grid:
    """How clean the electricity of a place is, and who says so."""

    grams_per_kwh: float
    source: str


def grid_of(country_iso_code: str) -> Grid:
    """The electricity of a country, named by three letters (ISO 3166); of the world where none is named.

    Raises:
        ValueError: the table has no such country.
        OSError: the table is not where codecarbon keeps it.
    """
    version = importlib.metadata.version("codecarbon")
    if not country_iso_code:
        sources = _table("carbon_intensity_per_source.json")
        grams = float(sources["world_average"])
        said = f"{grams:.0f} g/kWh, the world's average, as no country is named (IEA 2019, in codecarbon {version})"
        return Grid(grams, said)
    countries = _table("global_energy_mix.json")
    known = {code: row for code, row in countries.items() if row.get("carbon_intensity") is not None}
    if country_iso_code not in known:
        raise ValueError(
            "country_iso_code must be a country of codecarbon's table, three capital letters such as FRA, "
            f"got {country_iso_code!r}{_nearest(country_iso_code, known)}"
        )
    row = known[country_iso_code]
    grams = float(row["carbon_intensity"])
    said = f"{grams:.0f} g/kWh, electricity of {row['country_name']} in {row['year']} (table in codecarbon {version})"
    return Grid(grams, said)


def _nearest(wanted: str, known: dict[str, dict[str, Any]]) -> str:
    """The country that was probably meant, in words: its code is close, or its name was given."""
    by_name = {str(row["country_name"]).lower(): code for code, row in known.items()}
    names = difflib.get_close_matches(wanted.lower(), by_name, n=1, cutoff=0.8)
    codes = [by_name[name] for name in names] or difflib.get_close_matches(wanted.upper(), known, n=1)
    return f"; did you mean {codes[0]} ({known[codes[0]]['country_name']})?" if codes else ""


@cache
def _table(name: str) -> dict[str, Any]:
    # codecarbon's own reader loads pandas first, which a check of a recipe should not wait for.
    spec = importlib.util.find_spec("codecarbon")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("codecarbon is not installed")
    path = Path(spec.origin).parent / "data" / "private_infra" / name
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table
