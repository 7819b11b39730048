"""Seconds, joules and grams of CO2e of a piece of work, each with how it was obtained.

Energy is read or estimated by codecarbon in its offline mode: nothing is sent, looked up or written, whatever the
settings files and environment variables of codecarbon say.
"""

import importlib.metadata
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from preceptor.core.progress import say
from preceptor.footprint.grid import Grid, grid_of

JOULES_PER_KWH = 3.6e6
_SAMPLING_SECONDS = 5
_SHORTEST_WINDOW_SECONDS = 0.06
"""codecarbon does not look at the power again before 50 ms have passed; it then leaves the rest of a run out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FootprintConfig:
    """How energy is measured, and what turns it into emissions."""

    method: Literal["codecarbon", "clock"] = "codecarbon"
    """codecarbon: power is read where this machine shows it, and estimated where not; clock: time alone is taken."""
    country_iso_code: str = ""
    """The country whose electricity is used, as three letters (ISO 3166): FRA, DEU, USA. Empty: the world's average."""

    def __post_init__(self) -> None:
        """Refuse a country whose electricity is not known."""
        if self.country_iso_code:
            # Where the table cannot be read, the meter says so; it is no fault of the recipe.
            with suppress(OSError):
                grid_of(self.country_iso_code)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a piece of work cost, and how each figure was obtained."""

    seconds: float = 0.0
    joules: float = 0.0
    grams_co2e: float = 0.0
    how: Mapping[str, str] = field(default_factory=dict)
    joules_by_part: Mapping[str, float] = field(default_factory=dict)
    """Of which in the processor, the memory and the accelerators."""

    def add(self, other: "Reading") -> "Reading":
        """The cost of both; where they were obtained in different ways, both ways are told."""
        keys = [*self.how, *(key for key in other.how if key not in self.how)]
        parts = [*self.joules_by_part, *(part for part in other.joules_by_part if part not in self.joules_by_part)]
        return Reading(
            self.seconds + other.seconds,
            self.joules + other.joules,
            self.grams_co2e + other.grams_co2e,
            {key: _both(self.how.get(key, ""), other.how.get(key, "")) for key in keys},
            {part: self.joules_by_part.get(part, 0.0) + other.joules_by_part.get(part, 0.0) for part in parts},
        )

    def facts(self) -> dict[str, Any]:
        """The reading as JSON."""
        return asdict(self) | {"how": dict(self.how), "joules_by_part": dict(self.joules_by_part)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Reading":
        """The reading that ``facts`` gave, or of nothing where there is none."""
        if not facts:
            return cls()
        return cls(
            facts["seconds"], facts["joules"], facts["grams_co2e"], facts["how"], facts.get("joules_by_part", {})
        )


_AND = "; also: "


def _both(first: str, second: str) -> str:
    ways = first.split(_AND) if first else []
    return _AND.join(ways + [way for way in second.split(_AND) if way and way not in ways])


class Meter:
    """A running measurement."""

    def __init__(self, config: FootprintConfig) -> None:
        self._how = {"seconds": "monotonic clock"}
        self._energy: _Energy | None = None
        self._grid = Grid(0.0, "")
        self._final: Reading | None = None
        if config.method == "clock":
            self._without_energy("not measured: footprint.method is clock")
        else:
            self._start(config)
        # Starting up the measurement is not part of the work.
        self._started = time.monotonic()

    def _start(self, config: FootprintConfig) -> None:
        try:
            self._grid = grid_of(config.country_iso_code)
            self._energy = _Energy()
        except Exception as error:  # measuring is never worth more than the work that is measured
            say(f"warning: energy is not measured, codecarbon failed: {error}")
            self._without_energy(f"not measured: codecarbon failed ({error})")
        else:
            self._how |= {"joules": self._energy.how, "grams_co2e": f"joules at {self._grid.source}"}

    def _without_energy(self, reason: str) -> None:
        self._energy = None
        self._how |= {"joules": reason, "grams_co2e": reason}

    def read(self) -> Reading:
        """The cost so far, or the whole cost when the measurement has ended."""
        if self._final is not None:
            return self._final
        seconds = time.monotonic() - self._started
        joules = self._joules_by_part(seconds)
        total = sum(joules.values())
        grams = total / JOULES_PER_KWH * self._grid.grams_per_kwh
        return Reading(seconds, total, grams, dict(self._how), joules)

    def _joules_by_part(self, seconds: float) -> dict[str, float]:
        if self._energy is None:
            return {}
        try:
            kwh, window_seconds = self._energy.since_start()
        except Exception as error:  # as above: the work goes on
            say(f"warning: energy is no longer measured, codecarbon failed: {error}")
            self._energy.stop()
            self._without_energy(f"not measured: codecarbon failed ({error})")
            return {}
        # codecarbon's window is a little longer than the work; the mean power is taken to be the same.
        return {part: amount * JOULES_PER_KWH * seconds / window_seconds for part, amount in kwh.items() if amount}

    def stop(self) -> Reading:
        """The whole cost; the measurement ends."""
        if self._final is None:
            self._final = self.read()
            if self._energy is not None:
                self._energy.stop()
        return self._final


@contextmanager
def measure(config: FootprintConfig) -> Iterator[Meter]:
    """A meter that runs while the block does."""
    meter = Meter(config)
    try:
        yield meter
    finally:
        meter.stop()


class _Energy:
    """The kilowatt-hours of this machine, by codecarbon.

    codecarbon swallows its own errors. It is therefore taken at its word only when a figure arrives.
    """

    def __init__(self) -> None:
        self._data: Any = None
        _SILENCE.last_error = ""
        with _quiet():
            from codecarbon import OfflineEmissionsTracker

            # Every setting is named, so that none is taken from codecarbon's settings files or environment variables.
            self._tracker = OfflineEmissionsTracker(
                project_name="preceptor",
                country_iso_code="USA",
                region=None,
                cloud_provider=None,
                cloud_region=None,
                country_2letter_iso_code=None,
                # One kilogram for one kilowatt-hour: no table of countries is asked here.
                force_carbon_intensity_g_co2e_kwh=1000.0,
                electricitymaps_api_token="",
                emissions_endpoint=None,
                api_endpoint="",
                api_key="",
                output_methods=[],
                output_handlers=[self],
                output_dir=".",
                api_call_interval=-1,
                measure_power_secs=_SAMPLING_SECONDS,
                tracking_mode="machine",
                gpu_ids=None,
                force_cpu_power=None,
                force_ram_power=None,
                force_mode_cpu_load=False,
                pue=1.0,
                wue=0.0,
                rapl_include_dram=False,
                rapl_prefer_psys=False,
                metadata=None,
                logger_preamble="",
                log_level="warning",
                allow_multiple_runs=True,
            )
            self._tracker.start()
        try:
            # The first of all readings also loads tables, long after it has looked at the power.
            self._kwh_by_part()
            self._before = self._kwh_by_part()
            self._origin = self._looked = time.monotonic()
            self.how = _describe(self._tracker)
        except Exception:
            self.stop()
            raise

    def since_start(self) -> tuple[dict[str, float], float]:
        """The kilowatt-hours of processor, memory and accelerators, and the seconds in which they were used.

        Raises:
            RuntimeError: codecarbon gave none.
        """
        time.sleep(max(0.0, _SHORTEST_WINDOW_SECONDS - (time.monotonic() - self._looked)))
        now = self._kwh_by_part()
        self._looked = time.monotonic()
        return {part: now[part] - self._before[part] for part in now}, self._looked - self._origin

    def _kwh_by_part(self) -> dict[str, float]:
        self._data = None
        with _quiet():
            self._tracker.flush()
        if self._data is None:
            raise RuntimeError(_SILENCE.last_error or "it gave no figure")
        data = self._data
        return {"processor": data.cpu_energy, "memory": data.ram_energy, "accelerators": data.gpu_energy}

    def stop(self) -> None:
        """End codecarbon's threads."""
        with _quiet():
            self._tracker.stop()

    def out(self, total: Any, delta: Any) -> None:
        """Take what codecarbon hands to those that write or send it."""
        self._data = total

    def live_out(self, total: Any, delta: Any) -> None:
        """Nothing is shown between readings."""

    def task_out(self, data: Any, experiment_name: str) -> None:
        """There are no tasks."""

    def exit(self) -> None:
        """There is nothing to close."""


class _Silence(logging.Filter):
    """Keeps codecarbon's log lines from the console, and remembers the last error among them."""

    last_error = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Nothing passes."""
        if record.exc_info and record.exc_info[1] is not None:
            self.last_error = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        return False


_SILENCE = _Silence()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines and warnings of codecarbon, whose threads go on logging afterwards."""
    logging.getLogger("codecarbon").addFilter(_SILENCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _describe(tracker: Any) -> str:
    """In words, how codecarbon gets the power of each part of this machine."""
    found = tracker.get_detected_hardware()
    parts = []
    for hardware in getattr(tracker, "_hardware", []):
        match type(hardware).__name__:
            case "CPU":
                parts.append(_describe_processor(hardware, str(found["cpu_model"]), int(found["cpu_count"] or 0)))
            case "RAM":
                watts = hardware.total_power().W
                parts.append(f"memory estimated at {watts:.0f} W from its size of {found['ram_total_size']:.0f} GB")
            case "GPU":
                parts.append(f"accelerators ({found['gpu_model']}) read from the driver")
            case other:
                parts.append(f"{other} read from its sensors")
    version = importlib.metadata.version("codecarbon")
    return f"codecarbon {version}, offline, the whole machine: {'; '.join(parts)}"


def _describe_processor(hardware: Any, model: str, num_threads: int) -> str:
    mode, watts = str(getattr(hardware, "_mode", "")), getattr(hardware, "_tdp", None)
    if mode not in ("cpu_load", "constant"):
        return f"processor ({model}) read from its power counter ({mode})"
    rated = f"{watts:.0f} W at full load" if watts else "an unknown wattage"
    with suppress(ImportError):
        from codecarbon.core.cpu import DEFAULT_POWER_PER_CORE

        if watts == num_threads * DEFAULT_POWER_PER_CORE:
            rated += f", codecarbon's {DEFAULT_POWER_PER_CORE} W per thread for models it does not know"
    way = "its load" if mode == "cpu_load" else "half of its rated power"
    return f"processor ({model}) estimated from {way}, as no power counter can be read: {rated}"
