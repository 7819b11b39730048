"""The cost of work that goes on, and what the machine could do at best."""

import threading
import time

import pytest
import torch

from preceptor.footprint.live import LiveMeter
from preceptor.footprint.meter import Reading
from preceptor.footprint.peak import reached_flops


class Fake:
    """A meter that notices two who read at a time."""

    def __init__(self, fails_at=0):
        self.reads, self.inside, self.clashes, self.fails_at = 0, 0, 0, fails_at

    def read(self):
        self.inside += 1
        self.clashes += self.inside > 1
        time.sleep(0.002)
        self.reads += 1
        self.inside -= 1
        if self.reads == self.fails_at:
            raise RuntimeError("the sensor is gone")
        return Reading(joules=float(self.reads))


def until(condition, seconds=60.0):
    ended = time.monotonic() + seconds
    while not condition() and time.monotonic() < ended:
        time.sleep(0.005)
    assert condition()


def test_it_is_read_in_the_background_and_never_by_two_at_a_time():
    fake = Fake()
    live = LiveMeter(fake, seconds_between=0.005)
    assert live.latest.joules == 0
    with live:
        until(lambda: live.latest.joules >= 3)
        for _ in range(20):
            asked = live()
            assert 0 < asked["joules"] <= fake.reads
    assert fake.clashes == 0
    reads = fake.reads
    time.sleep(0.03)
    assert fake.reads == reads
    assert not [thread for thread in threading.enumerate() if thread.name == "preceptor-live-meter"]
    assert live()["joules"] == reads + 1


def test_a_meter_that_fails_is_told_of_once_and_the_work_goes_on(capsys):
    fake = Fake(fails_at=2)
    with LiveMeter(fake, seconds_between=0.005) as live:
        until(lambda: fake.reads == 2)
        time.sleep(0.05)
    assert capsys.readouterr().err.count("the sensor is gone") == 1
    assert live.latest.joules == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_peak_is_that_of_a_product_and_leaves_random_numbers_alone(dtype):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    reached = reached_flops(torch.device("cpu"), dtype)
    assert torch.equal(torch.get_rng_state(), before)
    matrix = torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        _ = matrix @ matrix
        seconds.append(time.perf_counter() - started)
    # Only that it is of the right size: this machine may be busy with something else.
    assert reached / 20 < 2 * 512**3 / min(seconds) < 20 * reached


def test_a_type_without_units_of_its_own_counts_as_float32(monkeypatch):
    import preceptor.footprint.peak as module

    speeds = {(torch.float32, 1024): 100.0, (torch.bfloat16, 128): 1.0, (torch.float16, 128): 50.0}
    speeds[torch.float16, 1024] = 150.0
    monkeypatch.setattr(module, "_of_products", lambda device, dtype, side, seconds: speeds[dtype, side])
    assert reached_flops(torch.device("cpu"), torch.bfloat16) == 100.0
    assert reached_flops(torch.device("cpu"), torch.float16) == 150.0
