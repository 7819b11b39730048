import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preceptor.parallel.schedules import idle_share, most_in_flight, schedule

KINDS = ("gpipe", "1f1b", "interleaved", "zero-bubble")
PROCESSES, MICROBATCHES = st.integers(1, 6), st.integers(1, 20)


def chunks_of(kind, drawn):
    return drawn if kind == "interleaved" else 1


@pytest.mark.parametrize("kind", KINDS)
@given(processes=PROCESSES, microbatches=MICROBATCHES, drawn=st.integers(2, 4))
@settings(deadline=None, max_examples=40)
def test_every_action_is_there_once_and_none_waits_for_ever(kind, processes, microbatches, drawn):
    chunks = chunks_of(kind, drawn)
    found = schedule(kind, processes, chunks, microbatches)
    kinds = ["forward", "backward-input", "backward-weight"] if kind == "zero-bubble" else ["forward", "backward"]
    wanted = sorted((name, chunk, m) for name in kinds for chunk in range(chunks) for m in range(microbatches))
    for mine in found:
        assert sorted(mine) == wanted
        # A stage's own order: forward before backward, and the gradients of states before those of weights.
        for action in mine:
            if action.kind != "forward":
                before = kinds[kinds.index(action.kind) - 1]
                assert mine.index(action._replace(kind=before)) < mine.index(action)
    # It raises where processes wait for each other.
    assert 0 <= idle_share(found, chunks) < 1


def test_actions_that_wait_for_each_other_are_seen():
    first, second = schedule("1f1b", 2, 1, 2)
    with pytest.raises(ValueError, match="wait for each other"):
        idle_share([list(reversed(first)), second], 1)


@given(processes=PROCESSES, microbatches=MICROBATCHES)
@settings(deadline=None)
def test_1f1b_warms_up_alternates_and_cools_down(processes, microbatches):
    for number, mine in enumerate(schedule("1f1b", processes, 1, microbatches)):
        warm = min(microbatches, processes - number - 1)
        letters = "".join(action.kind[0] for action in mine)
        assert letters == "f" * warm + "fb" * (microbatches - warm) + "b" * warm
        for kind in ("forward", "backward"):
            assert [action.microbatch for action in mine if action.kind == kind] == list(range(microbatches))


@given(processes=PROCESSES, microbatches=MICROBATCHES)
@settings(deadline=None)
def test_what_a_process_keeps(processes, microbatches):
    gpipe = [most_in_flight(mine) for mine in schedule("gpipe", processes, 1, microbatches)]
    assert gpipe == [microbatches] * processes
    one = [most_in_flight(mine) for mine in schedule("1f1b", processes, 1, microbatches)]
    assert one == [min(microbatches, processes - number) for number in range(processes)]
    # ZB-H1 keeps no more in any process than 1F1B does in the first. Source: Qi et al. 2023, section 2.2.
    assert max(most_in_flight(mine) for mine in schedule("zero-bubble", processes, 1, microbatches)) <= max(one)


@given(processes=PROCESSES, groups=st.integers(1, 4), chunks=st.integers(2, 4))
@settings(deadline=None)
def test_interleaved_keeps_what_its_warming_up_needs(processes, groups, chunks):
    for number, mine in enumerate(schedule("interleaved", processes, chunks, groups * processes)):
        # Source: Narayanan et al. 2021, section 2.2.2, and the warming up in Megatron-LM: the forward passes before
        # the first backward pass, and the one that alternates with it.
        warm = 2 * (processes - number - 1) + (chunks - 1) * processes
        assert most_in_flight(mine) == min(warm + 1, groups * processes * chunks)


@given(processes=PROCESSES, microbatches=MICROBATCHES, chunks=st.integers(2, 4))
@settings(deadline=None)
def test_idle_shares(processes, microbatches, chunks):
    def idle(kind, chunks=1):
        return idle_share(schedule(kind, processes, chunks, microbatches), chunks)

    one = idle("1f1b")
    assert idle("gpipe") == pytest.approx((processes - 1) / (microbatches + processes - 1))
    assert one == pytest.approx(idle("gpipe"))
    assert idle("zero-bubble") <= one + 1e-12
    if microbatches >= processes:
        # A third of 1F1B's, as forward, input and weight passes take the same. Source: Qi et al. 2023, table 2.
        assert idle("zero-bubble") == pytest.approx((processes - 1) / (3 * microbatches + processes - 1))
    if processes > 1 and microbatches > 1:
        assert idle("interleaved", chunks) < one
    if microbatches % processes == 0:
        bubble = (processes - 1) / chunks
        assert idle("interleaved", chunks) == pytest.approx(bubble / (microbatches + bubble))


def test_no_microbatches_need_no_actions():
    for kind in KINDS:
        assert schedule(kind, 3, 1, 0) == [[], [], []]
