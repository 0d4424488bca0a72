"""How a foreach goes through its items: which may be pulled, which are accepted, and when it is over. Pure.

Whoever drives it may execute the items, or may only say what would come of them, as `plan` does.

Windows refill one by one: each item that ends lets the next one in. Under `accept` an item is pulled only when it
is known of all before it whether they are answered already or have to be asked: so a repeat, which finds all in the
response cache, pulls no item that the first run did not.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from shlex import quote

from flowllm.core.errors import ItemsFailed, StepError, TemplateFailed
from flowllm.core.records import dataclass
from flowllm.core.types import ROW, Counts, Json, NodeStatus, OnError, RunId
from flowllm.language.sandbox_limits import at_most
from flowllm.language.workflow import Foreach, Step

DEFAULT_WINDOW = 16
"""Items of a foreach that asks models in flight, where neither it nor the limits of the accounts say more: enough to
keep all slots filled, and few, so that items that have begun go before new ones."""
MOST_OPEN_ITEMS = 1024
"""Items of all foreaches of a run that are open at once, but for one of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An item that reached a terminal status."""

    index: int
    number: int
    status: NodeStatus
    item: Json = None
    output: Json = None
    stands: bool = False
    """It failed for failures within it that were tolerated: a resume lets them stand, unless it is to retry them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptPolicy:
    """`accept`, its count known."""

    count: int
    overshoot: float
    ordered: bool
    """Whether an item is accepted depends on those accepted before it."""
    judge: Callable[[Ended, Sequence[Json]], bool]
    """Whether to accept an item, given the outputs accepted before it. Raises StepError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureTolerance:
    """How many items may fail."""

    forgiven: bool = False
    """`on_error: continue`."""
    most: int | None = None
    share: float | None = None


class ForeachState:
    """The state of one foreach. Items are named by their indexes in their data, and pulled in order."""

    def __init__(
        self,
        *,
        window: int,
        policy: AcceptPolicy | None = None,
        tolerated: FailureTolerance | None = None,
        total: int | None = None,
        pulled_before: int = 0,
    ) -> None:
        """`window` is the most items in flight; `total` how many there are, None while that is not known. As many as
        `pulled_before` were pulled before the foreach was suspended: one of them may have been woken since."""
        self.window = window
        """May change while it goes on, but under `accept`."""
        self._policy = policy
        self._tolerated = tolerated or FailureTolerance()
        self._total = total
        self._pulled_before = pulled_before
        self._open: set[int] = set()
        self._lost: set[int] = set()
        """Pulled, and ended without an outcome: what they would have come to is not known."""
        self._returned = 0
        """Pulled, and put back: nothing was done for them."""
        self._suspended: set[int] = set()
        """Pulled, and waiting for the world."""
        self._undetermined: set[int] = set()
        self._waiting: dict[int, Ended] = {}
        """Ended, and not judged yet: something before them has not ended."""
        self._accepted: list[tuple[int, int, Json]] = []
        """Index, number and output of the accepted items, in input order."""
        self._seen: list[Json] = []
        """Their outputs, if `accept.when` looks at these; it is shown this list, and cannot change it."""
        self._succeeded = self._failed = self._skipped = 0
        self._next = 0
        self._drained = total == 0
        self._stand = True
        """So far all failures stand."""
        self.first_error: tuple[int, str] | None = None
        """Number and message of the failed item that is first in the data."""
        self._first_failed = math.inf
        self._decided: list[int] = []

    # what may be done

    @property
    def in_flight(self) -> int:
        """Items that were pulled and have not ended."""
        return len(self._open)

    def may_pull(self) -> int:
        """How many items may be pulled now."""
        if self._drained or self.enough or self.too_many_failed:
            return 0
        if self._policy is None:
            return max(0, self.window - len(self._open))
        if self._undetermined:
            return 0
        if self._next < self._pulled_before:
            return int(len(self._open) < self.window)
        needed = self._policy.count - len(self._accepted)
        most = math.ceil(self._policy.overshoot * needed) - len(self._suspended)
        return 1 if len(self._open) + len(self._waiting) < min(self.window, most) else 0

    @property
    def over(self) -> bool:
        """Nothing that is pulled or still in flight could change the output."""
        if self._settled:
            return True
        if self._open or self._lost:
            return False
        return self.too_many_failed or (not self._suspended and (self._drained or self.enough))

    @property
    def paused(self) -> bool:
        """Only suspended items are left."""
        return bool(self._suspended) and not self._open and not self.over and self.may_pull() == 0

    @property
    def enough(self) -> bool:
        """As many are accepted as are wanted."""
        return self._policy is not None and len(self._accepted) >= self._policy.count

    @property
    def _settled(self) -> bool:
        """So many are accepted, and all before the last of those have ended."""
        if self._policy is None or not self.enough:
            return False
        return self._accepted[self._policy.count - 1][0] < self._frontier

    @property
    def _frontier(self) -> int:
        """The outcome of every item before this index is known."""
        return min(min(some, default=self._next) for some in (self._open, self._lost, self._suspended))

    @property
    def too_many_failed(self) -> bool:
        """More items failed than `max_failed` allows, whatever becomes of the others."""
        tolerated = self._tolerated
        if tolerated.most is not None:
            return self._failed > tolerated.most
        return tolerated.share is not None and self._total is not None and self._failed > tolerated.share * self._total

    @property
    def pulled_until(self) -> int:
        """All items before this index were pulled, by this state or before the foreach was suspended."""
        return max(self._next, self._pulled_before)

    # what happens

    def pulled(self, index: int) -> None:
        """An item was taken from the data."""
        self._next = index + 1
        self._open.add(index)
        if self._policy is not None:
            self._undetermined.add(index)

    def missed(self, index: int) -> None:
        """Nothing answers the item: something is done for it now."""
        self._undetermined.discard(index)

    def drained(self) -> None:
        """The data has no more items."""
        self._drained = True
        self._total = self._next

    def ended(self, ended: Ended, message: str = "") -> list[tuple[Ended, StepError]]:
        """An item ended; `message` says why it failed. Gives the items whose `accept.when` could not be evaluated: those
        count as failed."""
        self._open.discard(ended.index)
        self._undetermined.discard(ended.index)
        match ended.status:
            case NodeStatus.FAILED:
                self._fail(ended, message)
            case NodeStatus.SKIPPED:
                self._skipped += 1
            case NodeStatus.SUCCEEDED:
                self._succeeded += 1
        if self._policy is None:
            return []
        if not self._policy.ordered:
            return self._judge(ended, self._policy)
        self._waiting[ended.index] = ended
        return self._judge_in_order(self._policy)

    def judged(self) -> list[int]:
        """Indexes about which `accept` has decided since this was last asked."""
        decided, self._decided = self._decided, []
        return decided

    def suspended(self, index: int) -> None:
        """A pulled item waits for the world, and does not count in the window."""
        self._open.discard(index)
        self._undetermined.discard(index)
        self._suspended.add(index)

    def woken(self, index: int) -> None:
        """It goes on."""
        self._suspended.discard(index)
        self._open.add(index)

    def withdrawn(self, index: int) -> None:
        """A pulled item ended without an outcome, because it is no longer wanted or the run is stopping."""
        self._open.discard(index)
        self._undetermined.discard(index)
        self._lost.add(index)

    def put_back(self, index: int) -> None:
        """Nothing was done for a pulled item, as too many have failed."""
        self._open.discard(index)
        self._returned += 1

    def _fail(self, ended: Ended, message: str) -> None:
        self._failed += 1
        self._stand = self._stand and ended.stands
        if ended.index < self._first_failed:
            self._first_failed = ended.index
            self.first_error = (ended.number, message)

    def _judge(self, ended: Ended, policy: AcceptPolicy) -> list[tuple[Ended, StepError]]:
        self._decided.append(ended.index)
        if ended.status is not NodeStatus.SUCCEEDED:
            return []
        try:
            accepted = policy.judge(ended, self._seen)
        except StepError as error:
            self._succeeded -= 1
            self._fail(ended, error.message)
            return [(ended, error)]
        if accepted:
            insort(self._accepted, (ended.index, ended.number, ended.output), key=lambda entry: entry[0])
            if policy.ordered:
                self._seen.append(ended.output)
        return []

    def _judge_in_order(self, policy: AcceptPolicy) -> list[tuple[Ended, StepError]]:
        rejected: list[tuple[Ended, StepError]] = []
        frontier = self._frontier
        for index in sorted(index for index in self._waiting if index < frontier):
            if not self.enough:
                rejected += self._judge(self._waiting[index], policy)
            del self._waiting[index]
        return rejected

    # the end

    @property
    def next_index(self) -> int:
        """The index of the next item to pull."""
        return self._next

    @property
    def total(self) -> int | None:
        """How many items there are, None while that is not known."""
        return self._total

    def chosen(self) -> list[int] | None:
        """The numbers of the accepted items that are the output, in input order; None without `accept`."""
        if self._policy is None:
            return None
        return [number for _, number, _ in self._accepted[: self._policy.count]]

    def chosen_outputs(self) -> list[Json]:
        """Their outputs."""
        most = 0 if self._policy is None else self._policy.count
        return [output for _, _, output in self._accepted[:most]]

    def counts(self, *, not_pulled: int = 0, not_sent: int = 0) -> Counts:
        """What became of the items; `not_pulled` are still in the data, `not_sent` were pulled and then not wanted."""
        return Counts(
            total=self._next + not_pulled,
            succeeded=self._succeeded,
            failed=self._failed,
            skipped=self._skipped,
            accepted=0 if self._policy is None else min(len(self._accepted), self._policy.count),
            not_sent=not_pulled + self._returned + not_sent,
        )

    def verdict(self, step: str, run: RunId) -> ItemsFailed | None:
        """Why the step fails, if it does, once it is over."""
        if not self._failed or self.enough:
            return None
        number, message = self.first_error or (0, "")
        pulled = self._next - self._returned
        failures = f"{self._failed:,} of {pulled:,} items failed; {step}[{number}]: {message}"
        tolerated = self._tolerated
        again = f"flowllm resume {run} --retry-failed"
        resume = again if self._stand else f"flowllm resume {run}"
        if step == ROW:
            return ItemsFailed(failures, hint=f"`flowllm failed {run}` lists them; `{resume}` runs them again")
        if not tolerated.forgiven:
            return ItemsFailed(
                failures,
                hint=f"`flowllm show {run} {quote(f'{step}[{number}]')}` shows it; `{resume}` runs the failed ones again; "
                "`on_error: continue` lets them pass",
            )
        most = tolerated.most
        if tolerated.share is not None:
            most = math.floor(tolerated.share * (self._total or self._next))
        if most is not None and self._failed > most:
            return ItemsFailed(f"{failures}; `max_failed` allows {most:,}", hint=f"`{again}` runs them again")
        if most is None and self._failed == self._next:
            return ItemsFailed(failures, hint=f"every item failed; `{again}` runs them again")
        return None


class OpenItemLimit:
    """How many items of all foreaches of a run may be open at once, which bounds its memory. Pure.

    A foreach without any may always open one, so that nesting cannot deadlock.
    """

    def __init__(self, limit: int, window: Callable[[bool], int] = lambda _: DEFAULT_WINDOW) -> None:
        """`window` is how many items one foreach has in flight where it does not say; told whether its items may be sent in
        another order than their own."""
        self.window = window
        self._limit = limit
        self._open = 0
        self._waiters: deque[Callable[[], bool]] = deque()

    def may_open(self, own: int) -> bool:
        """Whether a foreach that has `own` open items may open one more."""
        return own == 0 or self._open < self._limit

    def opened(self) -> None:
        """One more is open."""
        self._open += 1

    def closed(self) -> None:
        """One has ended; whoever waited longest, and still has an item to open, is called back."""
        self._open -= 1
        while self._waiters and not self._waiters.popleft()():
            pass

    def wait(self, callback: Callable[[], bool]) -> None:
        """Call back, once, when one more may be open; it says whether that is still of use."""
        self._waiters.append(callback)


_JUDGING = 1_000_000
"""Operations of `accept.when`, which is rendered while the event loop waits."""


def foreach_state(
    step: Step, values: Mapping[str, Json], *, window: int, total: int | None, pulled_before: int = 0
) -> ForeachState:
    """The state of a step's foreach before its first item; of a step without one, whose items are the rows of a data set,
    too. `window`, `total` and `pulled_before` are those of ForeachState.

    Raises StepError for an `accept.count` that is not a whole number from 1.
    """
    foreach = step.foreach
    return ForeachState(
        window=window,
        policy=None if foreach is None else _policy(foreach, values),
        tolerated=FailureTolerance(
            forgiven=step.on_error is OnError.CONTINUE,
            most=None if foreach is None else foreach.max_failed,
            share=None if foreach is None else foreach.max_failed_share,
        ),
        total=total,
        pulled_before=pulled_before,
    )


def _policy(foreach: Foreach, values: Mapping[str, Json]) -> AcceptPolicy | None:
    if foreach.accept is None:
        return None
    accept, name = foreach.accept, foreach.name
    count = accept.count.render(values)
    if isinstance(count, str) and count.strip().isdecimal():
        count = int(count)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise TemplateFailed(f"`accept.count` must be a whole number from 1, not {count!r}")

    def judge(ended: Ended, accepted: Sequence[Json]) -> bool:
        shown = {name: ended.item, "index": ended.index, "output": ended.output, "accepted": accepted}
        with at_most(_JUDGING):
            return accept.when.condition({**values, **shown})

    return AcceptPolicy(count=count, overshoot=accept.overshoot, ordered=accept.ordered, judge=judge)
