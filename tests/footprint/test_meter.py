"""The meter: plausible figures, honest words, nothing sent, nothing written, nothing said."""

import json
import socket
import sys
import threading
import time

import pytest

from preceptor.core.errors import PreceptorError
from preceptor.footprint import meter as module
from preceptor.footprint.grid import grid_of
from preceptor.footprint.meter import JOULES_PER_KWH, FootprintConfig, Meter, Reading, measure

FRANCE = FootprintConfig(country_iso_code="FRA")


def busy(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.fixture
def attempts(monkeypatch):
    """Every attempt to reach another machine; codecarbon would swallow an exception, so they are counted too."""
    found = []

    def refuse(*args, **kwargs):
        found.append(args)
        raise OSError("the network is not to be used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return found


def test_the_guard_would_notice_a_connection(attempts):
    import requests

    with pytest.raises(requests.RequestException):
        requests.get("http://127.0.0.1:9/", timeout=1)
    assert attempts


def test_nothing_is_sent_looked_up_or_written_whatever_the_settings_say(attempts, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = {
        "save_to_api": "true",
        "save_to_file": "true",
        "save_to_prometheus": "true",
        "output_methods": "api,csv",
        "emissions_endpoint": "http://127.0.0.1:9/",
        "electricitymaps_api_token": "token",
        "co2_signal_api_token": "token",
        "pue": "7",
        "force_ram_power": "1000",
        "log_level": "debug",
    }
    lines = "\n".join(f"{key} = {value}" for key, value in settings.items())
    (tmp_path / ".codecarbon.config").write_text(f"[codecarbon]\n{lines}\n")
    for key, value in settings.items():
        monkeypatch.setenv(f"CODECARBON_{key.upper()}", value)
    with measure(FRANCE) as meter:
        busy(0.1)
    reading = meter.read()
    assert reading.joules > 0
    assert reading.joules_by_part["memory"] / reading.seconds < 500, "a setting of 1000 W was taken"
    assert attempts == []
    assert [path.name for path in tmp_path.iterdir()] == [".codecarbon.config"]
    assert capfd.readouterr() == ("", "")


def test_the_power_lies_between_idle_and_full_load_and_the_parts_sum_up():
    with measure(FRANCE) as meter:
        busy(0.4)
    reading = meter.read()
    hardware = {type(part).__name__: part for part in meter._energy._tracker._hardware}
    memory = hardware["RAM"].total_power().W
    watts = reading.joules / reading.seconds
    assert memory * 0.9 < watts
    assert reading.joules == pytest.approx(sum(reading.joules_by_part.values()))
    if "cpu_load" in repr(hardware["CPU"]).lower().replace(" ", "_"):
        assert watts < (memory + hardware["CPU"]._tdp) * 1.1


def test_energy_grows_with_time_and_the_clock_is_right():
    readings, started = [], time.perf_counter()
    with measure(FRANCE) as meter:
        for _ in range(3):
            busy(0.15)
            readings.append(meter.read())
    assert readings[0].joules < readings[1].joules < readings[2].joules
    assert 0.45 <= readings[2].seconds <= time.perf_counter() - started


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.03])
def test_a_stage_shorter_than_codecarbon_looks_has_the_power_of_a_longer_one(seconds):
    """Without the wait for a window such a stage would cost next to nothing."""
    with measure(FRANCE) as long:
        time.sleep(0.3)
    with measure(FRANCE) as short:
        time.sleep(seconds)
    watts = [meter.read().joules / meter.read().seconds for meter in (long, short)]
    # Others may begin or end their work between the two.
    assert watts[0] / 5 < watts[1] < 5 * watts[0]


def test_grams_are_joules_times_the_factor_that_is_named():
    with measure(FRANCE) as french, measure(FootprintConfig()) as anywhere:
        busy(0.1)
    for meter, grid in ((french, grid_of("FRA")), (anywhere, grid_of(""))):
        reading = meter.read()
        assert reading.grams_co2e == pytest.approx(reading.joules / JOULES_PER_KWH * grid.grams_per_kwh)
        assert grid.source in reading.how["grams_co2e"]


def test_it_says_how_the_figures_were_obtained():
    with measure(FRANCE) as meter:
        pass
    how = meter.read().how
    assert set(how) == {"seconds", "joules", "grams_co2e"}
    assert "memory estimated at" in how["joules"] and "processor" in how["joules"]
    assert ("estimated from its load" in how["joules"]) != ("read from its power counter" in how["joules"])


def test_one_within_another_and_one_after_another():
    with measure(FRANCE) as outer:
        for _ in range(2):
            with measure(FRANCE) as inner:
                busy(0.1)
        busy(0.1)
    assert outer.read().joules > inner.read().joules > 0
    assert outer.read().seconds > inner.read().seconds


def no_timers():
    """Whether codecarbon's threads have ended, which takes a moment."""
    end = time.monotonic() + 60
    while timers() and time.monotonic() < end:
        time.sleep(0.02)
    return not timers()


def timers():
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_stopping_ends_the_threads_and_later_readings_are_the_last_one():
    assert no_timers()
    meter = Meter(FRANCE)
    assert timers()
    last = meter.stop()
    busy(0.1)
    assert meter.read() == meter.stop() == last
    assert no_timers()


def test_the_measurement_ends_when_the_work_fails():
    with pytest.raises(PreceptorError), measure(FRANCE) as meter:
        raise PreceptorError("broken")
    assert meter.read().joules > 0
    assert no_timers()


def test_a_missing_codecarbon_is_said_and_never_shown_as_zero_measured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with measure(FootprintConfig()) as meter:
        busy(0.01)
    reading = meter.read()
    assert reading.seconds > 0 and reading.joules == 0
    assert reading.how["joules"].startswith("not measured") and reading.how["grams_co2e"].startswith("not measured")
    assert "energy is not measured" in capsys.readouterr().err


def test_a_codecarbon_that_swallows_its_failure_is_found_out(monkeypatch, capsys):
    from codecarbon.core.resource_tracker import ResourceTracker

    def fail(self):
        raise ZeroDivisionError("no hardware here")

    monkeypatch.setattr(ResourceTracker, "set_CPU_GPU_ram_tracking", fail)
    with measure(FRANCE) as meter:
        pass
    assert "no hardware here" in meter.read().how["joules"]
    assert "no hardware here" in capsys.readouterr().err


def test_a_failure_during_the_work_does_not_stop_it(monkeypatch, capsys):
    with measure(FRANCE) as meter:
        assert meter.read().joules > 0
        monkeypatch.setattr(meter._energy._tracker, "flush", lambda: None)
        assert meter.read().how["joules"].startswith("not measured")
    assert "no longer measured" in capsys.readouterr().err
    assert no_timers()


def test_by_the_clock_alone_codecarbon_is_not_even_made(monkeypatch):
    monkeypatch.setattr(module, "_Energy", None)
    with measure(FootprintConfig(method="clock")) as meter:
        busy(0.01)
    reading = meter.read()
    assert reading.seconds >= 0.01 and reading.joules == 0
    assert "method is clock" in reading.how["joules"]


def test_readings_add_up_and_keep_every_way_in_which_they_were_obtained():
    first = Reading(1.0, 10.0, 2.0, {"seconds": "clock", "joules": "A"}, {"memory": 10.0})
    second = Reading(2.0, 5.0, 1.0, {"seconds": "clock", "joules": "B", "grams_co2e": "G"}, {"processor": 5.0})
    total = first.add(second).add(first).add(Reading())
    assert (total.seconds, total.joules, total.grams_co2e) == (4.0, 25.0, 5.0)
    assert total.how == {"seconds": "clock", "joules": "A; also: B", "grams_co2e": "G"}
    assert total.joules_by_part == {"memory": 20.0, "processor": 5.0}
    assert Reading().add(total) == total


def test_a_reading_survives_json():
    with measure(FRANCE) as meter:
        pass
    reading = meter.read()
    assert Reading.from_facts(json.loads(json.dumps(reading.facts()))) == reading
    assert Reading.from_facts({}) == Reading()
