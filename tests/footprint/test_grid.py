"""Grams for a kilowatt-hour: the figures codecarbon itself applies, and help for a wrong country."""

import pytest

from preceptor.core.config import decode
from preceptor.core.errors import ConfigError
from preceptor.footprint.grid import grid_of
from preceptor.footprint.meter import FootprintConfig


@pytest.mark.parametrize("code", ["FRA", "DEU", "USA", "IND", "POL"])
def test_the_factor_is_the_one_codecarbon_applies(code):
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    kilograms = Emissions(DataSource()).get_private_infra_emissions(
        Energy.from_energy(kWh=1.0), GeoMetadata(country_iso_code=code)
    )
    assert grid_of(code).grams_per_kwh == pytest.approx(1000 * kilograms)


def test_the_source_names_the_country_and_the_year():
    grid = grid_of("FRA")
    assert round(grid.grams_per_kwh) == 56
    assert "56 g/kWh" in grid.source and "France in 20" in grid.source


def test_without_a_country_the_worlds_average_is_used_and_said():
    grid = grid_of("")
    assert grid.grams_per_kwh == 475
    assert "world's average" in grid.source and "no country is named" in grid.source


@pytest.mark.parametrize(("wrong", "meant"), [("fra", "FRA"), ("Germany", "DEU"), ("POLL", "POL")])
def test_a_wrong_country_fails_where_the_recipe_is_read_and_names_the_right_one(wrong, meant):
    with pytest.raises(ConfigError) as caught:
        decode(FootprintConfig, {"country_iso_code": wrong}, where="footprint")
    assert "footprint" in str(caught.value) and f"did you mean {meant}" in str(caught.value)


def test_nonsense_is_refused_without_a_guess():
    with pytest.raises(ValueError, match=r"'QQQQ'$"):
        grid_of("QQQQ")
