"""Seconds, joules and grams of CO2e of a piece of work, each with how it was obtained.

Energy is read or estimated by codecarbon in its offline mode: nothing is sent, and nothing is looked up.
"""

import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from preceptor.core.errors import ConfigError
from preceptor.core.progress import say

JOULES_PER_KWH = 3.6e6
_ANY_COUNTRY = "FRA"
_SAMPLING_SECONDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FootprintConfig:
    """What turns energy into emissions."""

    country_iso_code: str = ""
    """The country whose electricity is used, as three letters (ISO 3166): FRA, DEU, USA. Empty: the world's average."""

    def __post_init__(self) -> None:
        """Refuse what is no country code."""
        code = self.country_iso_code
        if code and not (len(code) == 3 and code.isascii() and code.isalpha() and code.isupper()):
            raise ValueError(f"country_iso_code must be three capital letters such as FRA, got {code!r}")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a piece of work cost, and how each figure was obtained."""

    seconds: float = 0.0
    joules: float = 0.0
    grams_co2e: float = 0.0
    how: Mapping[str, str] = field(default_factory=dict)

    def add(self, other: "Reading") -> "Reading":
        """The cost of both."""
        return Reading(
            self.seconds + other.seconds,
            self.joules + other.joules,
            self.grams_co2e + other.grams_co2e,
            {**other.how, **self.how},
        )

    def facts(self) -> dict[str, Any]:
        """The reading as JSON."""
        return asdict(self) | {"how": dict(self.how)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Reading":
        """The reading that ``facts`` gave, or of nothing where there is none."""
        if not facts:
            return cls()
        return cls(facts["seconds"], facts["joules"], facts["grams_co2e"], facts["how"])


class Meter:
    """A running measurement."""

    def __init__(self, config: FootprintConfig) -> None:
        self._started = time.monotonic()
        self._tracker: Any = None
        self._how = {"seconds": "monotonic clock"}
        self._grams_per_kwh = 0.0
        try:
            self._start(config)
        except (ImportError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            say(f"warning: energy is not measured, codecarbon failed: {error}")
            self._how["joules"] = self._how["grams_co2e"] = f"not measured: codecarbon failed ({error})"
        # Starting up the measurement is not part of the work.
        self._started = time.monotonic()

    def _start(self, config: FootprintConfig) -> None:
        with _quiet():
            from codecarbon import OfflineEmissionsTracker
            from codecarbon.input import DataSource

            tables = DataSource()  # type: ignore[no-untyped-call]
            mix = tables.get_global_energy_mix_data()
            country = config.country_iso_code
            if country and mix.get(country, {}).get("carbon_intensity") is None:
                raise ConfigError(
                    f"footprint.country_iso_code: there is no carbon intensity for {country!r}",
                    path="footprint.country_iso_code",
                    remedy="name another country, or leave it empty for the world's average",
                )
            self._tracker = OfflineEmissionsTracker(
                country_iso_code=country or _ANY_COUNTRY,
                save_to_file=False,
                log_level="critical",
                measure_power_secs=_SAMPLING_SECONDS,
                allow_multiple_runs=True,
            )
            self._tracker_grams_per_kwh = float(mix[country or _ANY_COUNTRY]["carbon_intensity"])
            world = float(tables.get_carbon_intensity_per_source_data()["world_average"])
            self._grams_per_kwh = self._tracker_grams_per_kwh if country else world
            self._tracker.start()
        place = f"electricity of {country}" if country else "world's average, as no country is named"
        self._how["grams_co2e"] = f"{self._grams_per_kwh:.0f} g/kWh, {place} (codecarbon's table)"
        self._how["joules"] = _describe(self._tracker)

    def read(self) -> Reading:
        """The cost so far."""
        seconds = time.monotonic() - self._started
        if self._tracker is None:
            return Reading(seconds, 0.0, 0.0, self._how)
        with _quiet():
            kilograms = self._tracker.flush() or 0.0
        kwh = kilograms * 1000 / self._tracker_grams_per_kwh
        return Reading(seconds, kwh * JOULES_PER_KWH, kwh * self._grams_per_kwh, self._how)

    def stop(self) -> Reading:
        """The whole cost; the measurement ends."""
        reading = self.read()
        if self._tracker is not None:
            with _quiet():
                self._tracker.stop()
        return reading


@contextmanager
def measure(config: FootprintConfig) -> Iterator[Meter]:
    """A meter that runs while the block does."""
    meter = Meter(config)
    try:
        yield meter
    finally:
        meter.stop()


def _describe(tracker: Any) -> str:
    """In words, how codecarbon gets the power of each part of this machine."""
    parts = []
    for hardware in getattr(tracker, "_hardware", []):
        name = type(hardware).__name__
        if name == "CPU":
            mode = str(getattr(hardware, "_mode", ""))
            parts.append(
                f"processor estimated as load times {getattr(hardware, '_tdp', '?')} W, no power counter is readable"
                if mode in ("cpu_load", "constant")
                else f"processor read from {mode}"
            )
        elif name == "RAM":
            parts.append("memory estimated from its size")
        else:
            parts.append(f"{name} read from its counter")
    return "codecarbon, offline: " + "; ".join(parts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without codecarbon's own log lines and the warnings of what it imports."""
    logger = logging.getLogger("codecarbon")
    level, disabled = logger.level, logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        logger.disabled = disabled
