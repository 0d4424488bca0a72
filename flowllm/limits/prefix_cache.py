"""What a server's prompt cache holds of one model, as far as our own requests tell. Pure; times are monotonic seconds.

A beginning can be read from the cache once a request that has it was answered. So the first one leads: others that share
enough more with it than is there already follow, once it is answered. When it fails or takes too long, the next one
leads. Where this pays is seen from the tokens that answers report as read from a cache.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from flowllm.core.prefix import BLOCK, SIZES, PromptPrefix

WARM: Final = 240.0
"""Seconds without use for which a beginning is believed to be kept: providers promise five minutes."""
LEAST_GAIN: Final = 4 * BLOCK
"""Tokens more than are there already for which it pays to wait."""
PATIENCE: Final = 2.0
"""Times the usual latency for which one waits for a leader."""
UNKNOWN_LATENCY: Final = 30.0
"""Seconds, until a leader was answered."""
MOST_MARKS: Final = 65_536
"""Marks that are remembered; those used last stay."""
MOST_READY: Final = 64 * 2**20
"""Bytes of prompts that are ready, so that those are found that begin the same: memory stays bounded."""
UNSIZED: Final = 320
"""Prompts that are ready while it is not known how long they are."""
_SHRINKING: Final = 0.99
"""What is left of the size of the longest prompt with each that is shorter."""
_WEIGHT: Final = 0.2
"""Of the latest latency in the usual one."""
_CERTAIN: Final = 12 * BLOCK
"""Tokens that must be there for an answer that reports none to count against the cache: ours are an estimate."""
_MISSES: Final = {None: 3, True: 16}
"""Such answers in a row after which the server is believed not to keep beginnings; more where it was seen to."""
_TRIALS: Final = 256
"""Requests that are looked at to find out whether it does."""


class Leader:
    """A request on its way, which others follow."""

    __slots__ = ("at", "key", "wakes", "woken")

    def __init__(self, at: float, key: int) -> None:
        self.at = at
        self.key = key
        self.wakes: dict[Callable[[], None], None] = {}
        """Called in their order when it is over, or others have warmed what it leads in."""
        self.woken = 0
        """How often those that follow were let go."""

    def wake(self) -> None:
        """Let those that follow ask again."""
        self.woken += 1
        wakes, self.wakes = self.wakes, {}
        for wake in wakes:
            wake()


class Lineup:
    """Where one call stands among those that share its beginning."""

    __slots__ = (
        "deadline",
        "expected",
        "follows",
        "key",
        "leads",
        "looked",
        "owned",
        "prefix",
        "until",
        "warm",
        "woken",
    )

    def __init__(self, prefix: PromptPrefix) -> None:
        self.prefix = prefix
        self.follows: Leader | None = None
        """It was passed over, to wait for that one."""
        self.woken = 0
        """How often those that follow that one had been let go by then."""
        self.until = 0.0
        """When it asks again, at the latest."""
        self.deadline: float | None = None
        """When it goes, whatever became of those that it followed."""
        self.warm = 0
        """Tokens that were there when it began to wait."""
        self.leads: Leader | None = None
        """What others see of it while it is on its way."""
        self.looked = False
        """Whether to follow, and to lead, was asked at all."""
        self.owned: tuple[int, ...] = ()
        """Marks in which nobody was before it."""
        self.expected = 0
        """Tokens that it should find."""
        self.key = 0
        """Names the beginning that it shares with others; 0: none."""

    @property
    def cold(self) -> bool:
        """So much of it was not there when it went that it takes longer than others."""
        marks = self.prefix.marks if self.looked else ()
        return bool(marks) and SIZES[len(marks) - 1] - self.expected >= LEAST_GAIN


class PrefixCache:
    """The beginnings of one model's prompts: which are there, and which are on their way."""

    def __init__(self) -> None:
        self.mode: str | None = None
        """on, off, or auto (None): wherever it is seen to pay."""
        self.shown: bool | None = None
        """Whether answers have shown that the server keeps beginnings; None: not known."""
        self._warm: OrderedDict[int, tuple[float, int]] = OrderedDict()
        """When each was used last, and the key under which that was."""
        self._heating: dict[int, Leader] = {}
        self._usual: float | None = None
        self._size = 0.0
        """Bytes of the longest prompt lately."""
        self._misses = 0
        self._trials = 0
        self._tried: Lineup | None = None
        """The one follower while it is not known whether to follow pays."""
        self._tried_until = 0.0

    @property
    def patience(self) -> float:
        """Seconds for which one waits for a leader."""
        return PATIENCE * (UNKNOWN_LATENCY if self._usual is None else self._usual)

    @property
    def pays(self) -> bool:
        """Requests wait for those that lead."""
        return self.mode == "on" or (self.shown is True and self.mode != "off")

    @property
    def undecided(self) -> bool:
        """Whether that pays is still to be found out."""
        return self.shown is None and self._trials < _TRIALS and self.mode not in ("on", "off")

    @property
    def ahead(self) -> int:
        """How many requests may be ready, for those to be found that begin the same."""
        return int(MOST_READY / self._size) if self._size else UNSIZED

    def follow(self, lineup: Lineup, now: float, *, crowded: bool) -> bool:
        """Whether a request that could go rather waits for a leader, `lineup.follows` from then on, and until
        `lineup.until` at the latest. While it is not known whether that pays, one at a time does, where many wait anyway
        (`crowded`): to try it costs nobody time."""
        lineup.follows = None
        trying = self.undecided and (crowded or lineup is self._tried)
        lineup.looked = trying or self.pays
        if not lineup.looked:
            return False
        if trying and self._tried not in (None, lineup) and now < self._tried_until:
            return False
        warm = self._warm_tokens(lineup.prefix.marks, now)
        leader = self._leader(lineup, warm, now)
        if leader is None:
            return False
        if lineup.deadline is None or warm > lineup.warm:
            lineup.deadline, lineup.warm = now + self.patience, warm
        lineup.follows, lineup.woken = leader, leader.woken
        lineup.until = min(lineup.deadline, leader.at + self.patience)
        if trying:
            self._tried, self._tried_until = lineup, now + 2 * self.patience
        return True

    def _leader(self, lineup: Lineup, warm: int, now: float) -> Leader | None:
        """Whose prompt has most in common with one of which so many tokens are there, and enough more than these."""
        marks = lineup.prefix.marks
        if lineup.deadline is not None and now >= lineup.deadline and warm <= lineup.warm:
            return None
        for place in range(len(marks) - 1, -1, -1):
            if SIZES[place] - warm < LEAST_GAIN:
                break
            if (leader := self._ahead(marks[place], now)) is not None:
                return leader
        return None

    def begin(self, lineup: Lineup, now: float) -> None:
        """It goes, and leads in whatever is neither there nor on its way."""
        if not lineup.looked or not lineup.prefix.marks:
            return
        self._trials += self.shown is None
        self._size = max(self._size * _SHRINKING, lineup.prefix.size)
        marks = lineup.prefix.marks
        warm = self._warm_tokens(marks, now)
        cold = marks[bisect_right(SIZES, warm) :]
        on_its_way = [leader for mark in cold if (leader := self._ahead(mark, now)) is not None]
        if on_its_way:
            key = on_its_way[-1].key
        else:
            key = cold[0] if cold and SIZES[len(marks) - 1] - warm >= LEAST_GAIN else self._warm_key(marks, warm)
        lineup.expected, lineup.key = warm, key
        lineup.owned = tuple(mark for mark in cold if self._ahead(mark, now) is None)
        lineup.leads = Leader(now, key)
        self._heating.update(dict.fromkeys(lineup.owned, lineup.leads))

    def answered(self, lineup: Lineup, cached: int | None, seconds: float, now: float) -> None:
        """Its answer is here, so many seconds after it went out: what it led in can be read. It says how many tokens of its
        prompt were read from the cache; None: it does not say."""
        self._learn(lineup, cached)
        led = lineup.leads
        if led is None:
            return
        if lineup.cold:
            self._usual = seconds if self._usual is None else self._usual + _WEIGHT * (seconds - self._usual)
        overtaken = set[Leader]()
        for mark in lineup.prefix.marks:
            known = self._warm.pop(mark, None)
            self._warm[mark] = (now, led.key if known is None else known[1])
            if (leader := self._heating.get(mark)) is not None and leader is not led:
                overtaken.add(leader)
        while len(self._warm) > MOST_MARKS:
            self._warm.popitem(last=False)
        self.over(lineup)
        for leader in overtaken:
            leader.wake()

    def over(self, lineup: Lineup) -> None:
        """It was answered, or never will be: the next one may lead. Once is enough."""
        leader, lineup.leads = lineup.leads, None
        if self._tried is lineup:
            self._tried = None
        if leader is None:
            return
        for mark in lineup.owned:
            if self._heating.get(mark) is leader:
                del self._heating[mark]
        leader.wake()

    def _learn(self, lineup: Lineup, cached: int | None) -> None:
        if cached:
            self.shown, self._misses = True, 0
        elif cached == 0 and lineup.leads is not None and lineup.expected >= _CERTAIN and self.shown is not False:
            self._misses += 1
            if self._misses >= _MISSES[self.shown]:
                self.shown = False

    def _ahead(self, mark: int, now: float) -> Leader | None:
        """Who leads there, and not for too long already."""
        leader = self._heating.get(mark)
        return leader if leader is not None and now < leader.at + self.patience else None

    def _warm_tokens(self, marks: tuple[int, ...], now: float) -> int:
        """How much of a prompt is there."""
        for place in range(len(marks) - 1, -1, -1):
            known = self._warm.get(marks[place])
            if known is not None and now - known[0] < WARM:
                return SIZES[place]
        return 0

    def _warm_key(self, marks: tuple[int, ...], warm: int) -> int:
        return self._warm[marks[bisect_right(SIZES, warm) - 1]][1] if warm else marks[0]
