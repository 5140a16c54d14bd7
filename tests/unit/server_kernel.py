"""Processes as the decider's actions leave them, for the tests of `server.decide`."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from gapless.server.generations.decide import decide, due
from gapless.server.generations.generation import (
    NEVER,
    Action,
    Beat,
    Boot,
    Carried,
    Carry,
    Commit,
    Drain,
    Dump,
    Event,
    Exited,
    Finish,
    Kill,
    Left,
    Limits,
    Pause,
    Prepared,
    Recall,
    Recycling,
    Refused,
    Reload,
    Replaced,
    Retire,
    Scale,
    Serving,
    Stage,
    Start,
    State,
    Stop,
    Stopped,
    Tick,
    Tired,
    TooBusy,
)

LASTING = Limits()
NEVER_RECYCLED = Recycling()


@dataclass
class Kernel:
    """Says which events are possible, and checks with each action that it is allowed."""

    wanted: int
    abreast: int = 2
    limits: Limits = LASTING
    recycling: Recycling = NEVER_RECYCLED
    now: float = 0.0
    state: State = field(init=False)
    alive: dict[int, str] = field(default_factory=dict)
    """key → starting | prepared | carrying | committed | serving | paused | leaving | killed"""
    generation: dict[int, int] = field(default_factory=dict)
    accepting: set[int] = field(default_factory=set)
    unready: set[int] = field(default_factory=set)
    requests: dict[int, int] = field(default_factory=dict)
    seen: list[Action] = field(default_factory=list)
    asked: int = 0
    answered: int = 0

    def __post_init__(self) -> None:
        self.state = State(self.wanted, self.limits, self.abreast, self.recycling)
        self.feed(Boot())

    def feed(self, event: Event) -> list[Action]:
        self.asked += isinstance(event, Reload) and not self.state.ended
        before = self.all_serving() - isinstance(event, Serving)
        self.state, actions = decide(self.state, event, self.now)
        for action in actions:
            self.perform(action)
        if not isinstance(event, Stop | Scale) and not self.state.leaving:
            sick = sum(isinstance(action, Dump | Kill) for action in actions)
            assert self.all_serving() + sick >= min(before, self.state.wanted), (event, actions)
        self.seen += actions
        return actions

    def perform(self, action: Action) -> None:  # noqa: C901 - one case per action
        match action:
            case Start(key, generation):
                assert key not in self.alive
                self.alive[key], self.generation[key] = "starting", generation
                if generation == self.state.coming and self.all_serving():
                    assert self.loading(generation) <= self.abreast
            case Carry(key, source):
                assert self.alive[key] == "prepared"
                assert self.alive[source] == "serving"
                self.alive[key] = "carrying"
            case Commit(key):
                assert self.alive[key] in ("prepared", "carrying")
                self.alive[key] = "committed"
                self.accepting.add(key)
            case Pause(key):
                assert self.alive[key] in ("committed", "serving", "killed")
                self.alive[key] = "paused" if self.alive[key] != "killed" else "killed"
            case Recall(key):
                assert self.alive[key] == "paused"
                self.alive[key] = "committed"
                self.accepting.add(key)
            case Retire(key) | Drain(key) if self.alive[key] in ("leaving", "killed"):
                return  # reminded, perhaps in vain
            case Retire(key) | Drain(key):
                assert self.alive[key] in ("committed", "serving", "paused")
                self.alive[key] = "leaving"
            case Dump(key, _) | Kill(key, _):
                assert key in self.alive
                self.alive[key] = "killed"
            case Stage(generation, "serving", _):
                assert self.serving(generation) >= self.state.wanted
            case Replaced(_, before):
                self.answered += before > 0
                old = {key for key in self.alive if self.generation[key] == before}
                assert self.state.leaving or not old & self.accepting
            case Refused():
                self.answered += self.state.current > 0
            case TooBusy():
                self.answered += self.reloading
            case Finish():
                assert not self.alive

    reloading: bool = False

    def all_serving(self) -> int:
        return list(self.alive.values()).count("serving")

    def loading(self, generation: int) -> int:
        return sum(p == "starting" and self.generation[k] == generation for k, p in self.alive.items())

    def serving(self, generation: int) -> int:
        return sum(p == "serving" and self.generation[k] == generation for k, p in self.alive.items())

    def move(self, key: int, before: str, after: str, event: Event) -> None:
        if self.alive.get(key) == before:
            self.alive[key] = after
            self.feed(event)

    def tick(self, dt: float) -> None:
        self.now += dt
        for _ in range(20):
            if due(self.state) > self.now:
                return
            self.feed(Tick())
        raise AssertionError("ticks that change nothing")

    def step(self, what: str, pick: int, dt: float) -> None:  # noqa: C901 - one case per event
        self.tick(dt)
        keys = sorted(self.alive)
        key = keys[pick % len(keys)] if keys else 0
        match what:
            case "prepared":
                self.move(key, "starting", "prepared", Prepared(key, carries=bool(pick % 3)))
            case "carried" if self.alive.get(key) == "carrying":
                self.feed(Carried(key))
            case "serving":
                self.move(key, "committed", "serving", Serving(key))
            case "stopped" if self.alive.get(key) in ("leaving", "paused"):
                self.stopped(key)
            case "beat" if keys:
                self.beat(key)
            case "unready" if keys:
                self.unready ^= {key}
                self.beat(key)
            case "used" if keys:
                self.requests[key] = 1_000_000
                self.beat(key)
            case "exit" if keys:
                self.exit(key)
            case "tired" if self.alive.get(key) == "serving":
                self.feed(Tired(key))
            case "left":
                self.move(key, "serving", "leaving", Left(key))
            case "reload":
                self.reload()
            case "scale":
                self.feed(Scale(1 + pick % 4))
            case "stop":
                self.feed(Stop(15))

    def beat(self, key: int) -> None:
        self.feed(Beat(key, "disk: full" if key in self.unready else "", self.requests.get(key, 0)))

    def exit(self, key: int, reason: str = "crashed") -> list[Action]:
        del self.alive[key]
        self.accepting.discard(key)
        return self.feed(Exited(key, reason, 4))

    def reload(self) -> list[Action]:
        self.reloading = True
        actions = self.feed(Reload())
        self.reloading = False
        return actions

    def stopped(self, key: int) -> None:
        self.accepting.discard(key)
        self.feed(Stopped(key))

    def settle(self) -> None:
        """Everybody does what is asked of it, until nothing moves."""
        self.unready.clear()
        for _ in range(400):
            before = (self.state._replace(workers=()), dict(self.alive), set(self.accepting))
            for key in sorted(self.alive):
                self.obey(key)
            if before == (self.state._replace(workers=()), self.alive, self.accepting) and not self.wait():
                return
        raise AssertionError("it never settles")

    def wait(self) -> bool:
        """Let the time pass until something is due that is no sign of trouble; False when nothing is."""
        soon = [*(slot.retry_at for slot in self.state.slots), self.state.bake_until, self.state.recycle_at]
        ahead = [at for at in soon if self.now < at < NEVER]
        if ahead:
            self.tick(min(ahead) - self.now)
        return bool(ahead)

    def obey(self, key: int) -> None:
        match self.alive.get(key):
            case "starting":
                self.move(key, "starting", "prepared", Prepared(key))
            case "carrying":
                self.feed(Carried(key))
            case "committed":
                self.move(key, "committed", "serving", Serving(key))
            case "leaving" | "killed":
                self.exit(key, "ended")
            case "paused" if key in self.accepting:
                self.stopped(key)
            case str():
                self.beat(key)


def booted(
    wanted: int = 2, abreast: int = 2, limits: Limits = LASTING, recycling: Recycling = NEVER_RECYCLED
) -> Kernel:
    kernel = Kernel(wanted, abreast, limits, recycling)
    kernel.settle()
    assert kernel.serving(1) == wanted
    return kernel


Step = tuple[str, int, float]
WHATS = ["prepared", "serving"] * 4 + ["stopped", "reload"] * 2
WHATS += ["carried", "beat", "unready", "used", "exit", "tired", "left", "scale", "tick"]
STEPS = st.lists(
    st.tuples(st.sampled_from(WHATS), st.integers(0, 20), st.sampled_from([0.0, 0.01, 0.2, 3.0, 12.0, 40.0])),
    max_size=40,
)
LIMITS = st.sampled_from([Limits(), Limits(bake_s=5.0)])
RECYCLING = st.sampled_from([Recycling(), Recycling(requests=1000), Recycling(requests=1000, age_s=30.0)])
