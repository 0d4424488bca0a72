"""How a run stands now, worked out from its events alone: what the live view draws, whichever process the run is in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from flowllm.core.events import (
    Event,
    FanOutCounted,
    FanOutStarted,
    NodeEnded,
    NodeRetrying,
    NodeStarted,
    NodeSuspended,
    NodeWaiting,
    RequestEnded,
    RequestSent,
    RunEnded,
    RunStarted,
    StopRequested,
)
from flowllm.core.types import NODE_TERMINAL, ROW, NodeStatus, RunStatus, WaitReason, step_path
from flowllm.reporting.base import AccountState
from flowllm.reporting.followed import ItemsRead, SpendRead, StepRead
from flowllm.reporting.live_snapshot import LiveSnapshot, StepSnapshot, Throughput, Trouble
from flowllm.reporting.live_step import DIFFER, LiveStep
from flowllm.reporting.open_work import OpenWork, unanswered
from flowllm.reporting.rates import SlidingRate
from flowllm.reporting.text import error_text

_MINUTE: Final = 60.0
LONG: Final = 10.0
"""Seconds without a sign after which something is named."""


class LiveModel:
    """Told of events in their order, it can say at any time how the run stands. What it keeps is bounded by the steps of the
    file and by the nodes that are open. Times are wall clock seconds."""

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.ended: RunEnded | None = None
        self._stopping = False
        self._steps: dict[str, LiveStep] = {}
        self._found: dict[str, LiveStep] = {}
        """By any path below a step, that step."""
        self._within: defaultdict[str, list[LiveStep]] = defaultdict(list)
        """By a step those within it, at any depth."""
        self._open = OpenWork()
        self._requests = SlidingRate(0.0)
        self._tokens = SlidingRate(0.0)
        self._usd = 0.0
        self._usd_exact = True
        self._tokens_used = 0
        self._accounts: Mapping[str, AccountState] = {}
        self._last_error: Trouble | None = None
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            RunStarted: self._run_started,
            NodeStarted: self._node_started,
            FanOutStarted: self._foreach_started,
            FanOutCounted: self._foreach_counted,
            NodeWaiting: self._node_waits,
            NodeSuspended: self._node_suspended,
            RequestSent: self._request_sent,
            RequestEnded: self._request_ended,
            NodeRetrying: self._retrying,
            NodeEnded: self._node_ended,
            ItemsRead: self._items_read,
            StepRead: self._step_read,
            SpendRead: self._spend_read,
            StopRequested: self._stop_requested,
            RunEnded: self._run_ended,
        }

    def handle(self, event: Event) -> None:
        """Take note of one event."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def look(self, accounts: Mapping[str, AccountState]) -> None:
        """How the accounts stand now, by the names of the providers."""
        self._accounts = accounts

    # events

    def _run_started(self, event: RunStarted) -> None:
        self.started, self.ended = event, None
        self._requests, self._tokens = SlidingRate(event.at), SlidingRate(event.at)
        self._usd, self._tokens_used = event.spent_usd, event.spent_tokens
        for name, needs in event.steps.items():
            depth = name.count(".")
            around = name.rpartition(".")[0]
            step = LiveStep(name, depth, tuple(needs), many=around == ROW, at=event.at)
            self._steps[name] = self._found[name] = step
            while name := name.rpartition(".")[0]:
                self._within[name].append(step)

    def _step(self, node: str) -> LiveStep:
        """The step of the file that the node has become of, or that it is within."""
        path = step_path(node)
        step = self._found.get(path)
        if step is None:
            name = path
            while name and name not in self._steps:
                name = name.rpartition(".")[0]
            step = self._steps.get(name)
            if step is None:  # of an older record, whose workflow cannot be read
                name = path.partition(".")[0]
                step = self._steps[name] = self._found[name] = LiveStep(name, 0, (), many=False, at=0.0)
            self._found[path] = step
        return step

    def _node_started(self, event: NodeStarted) -> None:
        if event.place is None:
            self._step(event.node_id).begin(event.at)

    def _foreach_started(self, event: FanOutStarted) -> None:
        step = self._step(event.node_id)
        step.many = True
        step.begin(event.at)
        if "[" in event.node_id:
            if not step.opened:  # until now it might have been a step that is one node of each item
                step.ended = step.failed = step.skipped = 0
            step.opened += 1
            if event.total is not None:
                step.sized(event.total)
            return
        step.total = event.total
        for inner in self._within[step.name]:
            inner.many = True

    def _foreach_counted(self, event: FanOutCounted) -> None:
        step = self._step(event.node_id)
        if "[" in event.node_id:
            step.sized(event.total)
        else:
            step.total = event.total

    def _node_waits(self, event: NodeWaiting) -> None:
        self._open.waits[event.node_id] = event

    def _node_suspended(self, event: NodeSuspended) -> None:
        self._open.waits.pop(event.node_id, None)
        if "[" not in event.node_id:
            step = self._step(event.node_id)
            step.status, step.note = NodeStatus.WAITING, f"{event.kind}, token {event.token}"

    def _request_sent(self, event: RequestSent) -> None:
        self._open.sent(event)
        self._requests.add(event.at)
        step = self._step(event.node_id)
        step.in_flight += 1
        name = step.name
        while name:
            self._steps[name].asked(event.at)
            name = name.rpartition(".")[0]

    def _request_ended(self, event: RequestEnded) -> None:
        self._open.answered(event)
        step, tokens = self._step(event.node_id), event.usage.at_least
        step.in_flight = max(0, step.in_flight - 1)
        if tokens:
            self._tokens.add(event.at, tokens)
            self._tokens_used += tokens
            step.tokens += tokens
        if event.cost_usd is None:
            self._usd_exact = False
        else:
            self._usd += event.cost_usd
            step.usd += event.cost_usd

    def _retrying(self, event: NodeRetrying) -> None:
        self._step(event.node_id).retried += 1
        self._last_error = Trouble(text=f"{event.node_id}: {error_text(event.error)}", retried=True)

    def _node_ended(self, event: NodeEnded) -> None:
        node = event.node_id
        self._open.waits.pop(node, None)
        step = self._step(node)
        if event.place is not None:
            step.count(event)
        elif "[" not in node:
            step.end(event)
        elif step.many and not step.opened:
            step.count(event)
        if event.status is NodeStatus.FAILED and event.counts is None:
            self._last_error = Trouble(text=f"{node}: {error_text(event.error)}")

    def _items_read(self, event: ItemsRead) -> None:
        self._step(event.node_id).read(event)
        for node, error in event.errors:
            self._last_error = Trouble(text=f"{node}: {error_text(error)}")

    def _step_read(self, event: StepRead) -> None:
        step = self._step(event.node_id)
        step.status = NodeStatus.RUNNING  # since when is not on record
        step.read(event)
        if event.total is not None:
            step.opened, step.items = event.begun, event.total
            step.size = event.total // event.begun if event.alike else DIFFER if event.total else None

    def _spend_read(self, event: SpendRead) -> None:
        self._usd, self._tokens_used, self._usd_exact = event.usd, event.tokens, event.exact

    def _stop_requested(self, _event: StopRequested) -> None:
        self._stopping = True

    def _run_ended(self, event: RunEnded) -> None:
        self.ended = event
        self._open = OpenWork()
        for step in self._steps.values():
            step.in_flight = 0

    # what is shown

    def snapshot(self, now: float) -> LiveSnapshot:
        """How it stands; only once the run has started."""
        started, ended = self.started, self.ended
        assert started is not None  # noqa: S101 - as the docstring says
        now = now if ended is None else ended.at
        waits, elapsed = self._waits(), max(0.0, now - started.at)
        steps = [self._shown(step, waits, now) for step in self._steps.values()]
        top = [step for step in steps if not step.depth]
        left = [step.left_s for step in top if step.status is NodeStatus.RUNNING and step.many]
        accounts = list({id(one): one for one in self._accounts.values()}.values())
        return LiveSnapshot(
            run_id=started.run_id,
            workflow=started.workflow,
            provider=started.provider,
            simulated=started.simulated,
            resumed=started.resumed,
            status=RunStatus.RUNNING if ended is None else ended.status,
            stopping=self._stopping and ended is None,
            elapsed_s=elapsed if ended is None else ended.duration_s,
            steps=tuple(steps),
            done=sum(not step.depth and step.status in NODE_TERMINAL for step in self._steps.values()),
            count=len(top),
            in_flight=sum(step.in_flight for step in self._steps.values())
            + sum(one.in_flight or 0 for one in accounts),
            waits=sum(waits.values(), _waits_of(accounts)),
            requests=_throughput(
                self._requests, now, elapsed, [(one.requests_sent, one.requests_per_minute) for one in accounts]
            ),
            tokens=_throughput(
                self._tokens, now, elapsed, [(one.tokens_used, one.tokens_per_minute) for one in accounts]
            ),
            usd=self._usd,
            usd_exact=self._usd_exact,
            budget_usd=started.budget_usd,
            tokens_used=self._tokens_used,
            budget_tokens=started.budget_tokens,
            left_s=None if None in left else max((one for one in left if one is not None), default=None),
            more_follows=any(step.status is NodeStatus.PENDING for step in top),
            pause_s=max((one.pause_s for one in accounts), default=0.0),
            quiet=self._quiet(now),
            last_error=self._last_error,
        )

    def _waits(self) -> dict[str, Counter[WaitReason]]:
        found: dict[str, Counter[WaitReason]] = {}
        for node, wait in self._open.waits.items():
            found.setdefault(self._step(node).name, Counter())[wait.reason] += 1
        return found

    def _quiet(self, now: float) -> str:
        oldest = next(iter(self._open.requests.values()), None)
        return "" if oldest is None or now - oldest.at < LONG else unanswered(oldest, now, self._accounts)

    def _shown(self, step: LiveStep, waits: Mapping[str, Counter[WaitReason]], now: float) -> StepSnapshot:
        running = step.status not in NODE_TERMINAL and self.ended is None
        total = self._total(step)
        speed = step.rate.per_second(now) if running and step.many else None
        within = self._within[step.name] if step.many else []
        missing = (name for name in step.needs if name in self._steps and self._steps[name].status not in NODE_TERMINAL)
        waiting = sum((waits.get(one.name, Counter()) for one in (step, *within)), Counter[WaitReason]())
        return StepSnapshot(
            name=step.name,
            depth=step.depth,
            status=self._status(step),
            source=step.source,
            many=step.many,
            total=total,
            ended=self._ended(step),
            failed=step.failed,
            skipped=step.skipped,
            retried=step.retried,
            in_flight=step.in_flight + sum(one.in_flight for one in within),
            waits=waiting,
            needs=tuple(missing) if step.status is NodeStatus.PENDING else (),
            per_second=speed or None,
            left_s=self._left_s(step, now) or None if running else None,
            elapsed_s=None if step.began is None else max(0.0, (step.finished or now) - step.began),
            usd=max(step.usd, sum(one.usd for one in within)),  # the whole of it once it has ended
            tokens=max(step.tokens, sum(one.tokens for one in within)),
            note=step.note,
        )

    def _around(self, step: LiveStep) -> LiveStep | None:
        """The step whose items it is within."""
        found = self._steps.get(step.name.rpartition(".")[0])
        return found if found is not None and found.many else None

    def _total(self, step: LiveStep) -> int | None:
        """Its items, or those of the foreach that it is within; None: not known yet."""
        around = self._around(step)
        if step.total is not None or around is None:
            return step.total
        outer = self._total(around)
        if not step.opened or outer is None:
            return None if step.opened else outer
        others = max(0, outer - max(step.opened, around.ended))
        return step.items + others * (step.size or 0) if not others or step.size != DIFFER else None

    def _status(self, step: LiveStep) -> NodeStatus:
        """Of a step within items, which ends with each of them, that of the foreach once this is over."""
        around = self._around(step)
        if around is not None and (outer := self._status(around)) in NODE_TERMINAL:
            return outer
        stopped = self.ended is not None and step.status is NodeStatus.RUNNING
        return NodeStatus.CANCELLED if stopped else step.status

    def _ended(self, step: LiveStep) -> int:
        """Of a step within items at least as many as of these, which may have been taken as a whole from the cache."""
        around = self._around(step)
        return step.ended if around is None or step.opened else max(step.ended, self._ended(around))

    def _left_s(self, step: LiveStep, now: float) -> float | None:
        """Of a foreach of graphs what the slowest of its steps takes, where all are known: items end later than these."""
        total = self._total(step)
        own = None if total is None or not step.many else step.until(total, self._ended(step), now)
        within = [self._left_s(one, now) for one in self._within[step.name]]
        return own if None in within else max((one for one in within if one is not None), default=own)


def _waits_of(accounts: Sequence[AccountState]) -> Counter[WaitReason]:
    """Of a run of another process: as its accounts tell."""
    found: Counter[WaitReason] = Counter()
    for account in accounts:
        for reason, count in (account.waits or {}).items():
            found[WaitReason(reason)] += count
    return found


def _throughput(
    rate: SlidingRate, now: float, elapsed: float, accounts: Sequence[tuple[float | None, float | None]]
) -> Throughput:
    """By events, or in the last minute as accounts count it. One account without a limit makes all of them unlimited."""
    counted = [count for count, _ in accounts if count is not None]
    known = [limit for _, limit in accounts if limit is not None]
    return Throughput(
        per_minute=sum(counted) * _MINUTE / min(_MINUTE, max(1.0, elapsed)) if counted else rate.steady(now) * _MINUTE,
        limit=sum(known) if known and len(known) == len(accounts) else None,
    )
