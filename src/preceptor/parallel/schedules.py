"""In which order the stages of a pipeline run the micro-batches of a step; pure arithmetic.

Stage ``s`` is chunk ``s // processes`` of process ``s % processes``. Every order is found in one way: processes are
followed through time, and each brings as many micro-batches on their way as its kind of schedule allows it, and then
runs a backward pass for each forward pass. What was run once, one after another, can never wait for itself.

Source: Huang et al. 2019, GPipe; Narayanan et al. 2021, sections 2.2.1 (1F1B) and 2.2.2 (interleaved); Qi et al. 2023,
Zero Bubble Pipeline Parallelism, section 2.2 (ZB-H1).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from preceptor.core.dealing import even_part

ScheduleKind = Literal["gpipe", "1f1b", "interleaved", "zero-bubble"]
ActionKind = Literal["forward", "backward", "backward-input", "backward-weight"]

DURATIONS: dict[ActionKind, float] = {"forward": 1.0, "backward": 2.0, "backward-input": 1.0, "backward-weight": 1.0}
"""What actions take, in forward passes: the gradients of the states cost as much, and so do those of the weights."""


class Action(NamedTuple):
    """What a process does with one micro-batch in one of its chunks."""

    kind: ActionKind
    chunk: int
    microbatch: int


def schedule(kind: ScheduleKind, processes: int, chunks: int, microbatches: int) -> list[list[Action]]:
    """The actions of each process, in order; a process has several chunks with ``interleaved`` alone."""
    if not microbatches:
        return [[] for _ in range(processes)]
    slack = 0
    while (found := _attempt(kind, processes, chunks, microbatches, slack)) is None:
        # Groups of micro-batches that are not alike may need more of them on their way than groups that are.
        slack += 1
    return found


def idle_share(actions: Sequence[Sequence[Action]], chunks: int) -> float:
    """The part of the time in which processes wait: the bubble, where all stages cost the same and sending nothing."""
    ends = _ends(actions, chunks)
    total = max(max(times.values(), default=0.0) for times in ends)
    busy = sum(DURATIONS[action.kind] for mine in actions for action in mine)
    return 1.0 - busy / (total * len(actions)) if total else 0.0


def most_in_flight(actions: Sequence[Action]) -> int:
    """The most chunks of micro-batches that one process keeps at a time for backward passes to come."""
    # Where weights have a backward pass of their own, what they need is kept until then.
    lets_go = "backward-weight" if any(action.kind == "backward-weight" for action in actions) else "backward"
    most = held = 0
    for action in actions:
        held += (action.kind == "forward") - (action.kind == lets_go)
        most = max(most, held)
    return most


class _Process:
    """One process on its way through its actions."""

    def __init__(self, kind: ScheduleKind, place: tuple[int, int], chunks: int, microbatches: int, slack: int) -> None:
        self.kind, self.free_at, self.done = kind, 0.0, list[Action]()
        number, processes = place
        groups = _groups(microbatches, processes if chunks > 1 else microbatches)
        self.forwards = [(chunk, m) for group in groups for chunk in range(chunks) for m in group]
        self.backwards = [(chunk, m) for group in groups for chunk in reversed(range(chunks)) for m in group]
        self.weights: list[tuple[int, int]] = []
        self.kept = 0
        """Micro-batches whose weights have had no gradient yet."""
        behind = processes - number
        if kind == "gpipe":
            self.limit = len(self.forwards)
        elif chunks > 1:
            self.limit = 2 * behind - 1 + (chunks - 1) * max(map(len, groups)) + slack
        else:
            self.limit = behind + slack
        self.most_kept = processes + slack if kind == "zero-bubble" else self.limit
        self.under_way = 0
        """Micro-batches whose states have had no gradient yet."""

    def choices(self) -> list[Action]:
        """What comes next; behind it what is done instead where it waits for others."""
        weights = [Action("backward-weight", *self.weights[0])] if self.weights else []
        if self.forwards and self.under_way < self.limit:
            return weights if self.kept == self.most_kept else [Action("forward", *self.forwards[0]), *weights]
        if self.backwards:
            split = self.kind == "zero-bubble"
            return [Action("backward-input" if split else "backward", *self.backwards[0]), *weights]
        return weights

    def take(self, action: Action, now: float) -> None:
        """Run an action from now on."""
        match action.kind:
            case "forward":
                self.under_way, self.kept = self.under_way + 1, self.kept + 1
                self.forwards.pop(0)
            case "backward-weight":
                self.kept -= 1
                self.weights.pop(0)
            case "backward":
                self.under_way, self.kept = self.under_way - 1, self.kept - 1
                self.backwards.pop(0)
            case "backward-input":
                self.under_way -= 1
                self.weights.append(self.backwards.pop(0))
        self.done.append(action)
        self.free_at = now + DURATIONS[action.kind]


def _groups(microbatches: int, size: int) -> list[range]:
    """Micro-batches in groups of at least so many, where there are that many: a chunk runs a group, then the next."""
    parts = max(1, microbatches // size)
    starts = [even_part(microbatches, parts, part) for part in range(parts)]
    return [range(start, start + length) for start, length in starts]


def _attempt(
    kind: ScheduleKind, processes: int, chunks: int, microbatches: int, slack: int
) -> list[list[Action]] | None:
    """The actions of each process; None where it comes to a standstill."""
    there = [_Process(kind, (number, processes), chunks, microbatches, slack) for number in range(processes)]
    ends: dict[tuple[str, int, int], float] = {}
    left = processes * chunks * microbatches * (3 if kind == "zero-bubble" else 2)
    now = 0.0
    while left:
        for number, process in enumerate(there):
            if process.free_at > now:
                continue
            for action in process.choices():
                if _ready(action, number, processes, chunks, ends) <= now:
                    process.take(action, now)
                    ends[_key(action, number, processes)] = process.free_at
                    left -= 1
                    break
        later = [process.free_at for process in there if process.free_at > now]
        if left and not later:
            return None
        now = min(later, default=now)
    return [process.done for process in there]


def _key(action: Action, number: int, processes: int) -> tuple[str, int, int]:
    kind = "backward" if action.kind == "backward-input" else action.kind
    return kind, action.chunk * processes + number, action.microbatch


def _ready(action: Action, number: int, processes: int, chunks: int, ends: dict[tuple[str, int, int], float]) -> float:
    """When what an action needs is there; never, as far as is known."""
    kind, stage, microbatch = _key(action, number, processes)
    never = float("inf")
    if kind == "forward":
        return ends.get(("forward", stage - 1, microbatch), never) if stage else 0.0
    if kind == "backward-weight":
        return ends.get(("backward", stage, microbatch), never)
    mine = ends.get(("forward", stage, microbatch), never)
    if stage == processes * chunks - 1:
        return mine
    return max(mine, ends.get(("backward", stage + 1, microbatch), never))


def _ends(actions: Sequence[Sequence[Action]], chunks: int) -> list[dict[Action, float]]:
    """When each action ends where every process runs its own in order.

    Raises:
        ValueError: they wait for each other for ever.
    """
    ends: dict[tuple[str, int, int], float] = {}
    found: list[dict[Action, float]] = [{} for _ in actions]
    free_at = [0.0] * len(actions)
    moved = True
    while moved:
        moved = False
        for number, mine in enumerate(actions):
            for action in mine[len(found[number]) :]:
                start = max(free_at[number], _ready(action, number, len(actions), chunks, ends))
                if start == float("inf"):
                    break
                free_at[number] = start + DURATIONS[action.kind]
                ends[_key(action, number, len(actions))] = found[number][action] = free_at[number]
                moved = True
    if any(len(done) < len(mine) for done, mine in zip(found, actions, strict=True)):
        raise ValueError("the actions of these processes wait for each other")
    return found
