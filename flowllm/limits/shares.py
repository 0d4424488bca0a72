"""How much of a scope's limits each process gets: by need, and never more in sum than there is. Pure.

Each process balances by itself, once in a while, with the rows of the others before it. What it is to have follows from
all needs: *max-min fairness* (D. Bertsekas, R. Gallager, "Data Networks", 1992, section 6.5.2), where nobody gets more while
one who has less could use it, and what nobody needs is spread over all. It shrinks at once, and grows by what is free alone. So
the sum never passes the whole, however late somebody is, and who was promised something waits for one round of the others.

Where there is too little for everyone to send a request at all (a burst of one, fewer slots than processes), they take
turns: those who have something keep it for a while, then the one goes first that had nothing for the longest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from flowllm.core.records import dataclass
from flowllm.core.shares import Balance, Decide, Grant, LearnedRate, Ledger, Pool, Report, Share, Windows
from flowllm.limits.adaptive import learned_rate

EVERY = 1.0
"""Seconds from one balance of a process to its next, up to CROWD processes; with more of them in proportion, as each reads the
rows of all."""
HUNGRY = 0.25
"""Seconds until one looks again that needs something and has nothing."""
GIVING = 0.1
"""Seconds until one reports that it holds less, as it is to."""
LEASE = 8.0
"""Seconds for which a share holds that is not renewed, at least."""
LONGEST_TOLD = 60.0
"""Seconds of a server's pause that others are told of: each finds out by itself about one at which it may give up."""
CROWD = 100
TURN = 4.0
"""Seconds for which one keeps what is not enough for all."""
ENOUGH = 0.95
"""Of what one is to have: for the rest nobody else gives up anything."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a process is to have."""

    fraction: float = 0.0
    slots: int = 0
    windows: Windows


def pause(processes: int) -> float:
    """Seconds from one balance to the next among so many processes."""
    return EVERY * max(1.0, processes / CROWD)


def lease(processes: int) -> float:
    """Seconds for which a share holds among so many."""
    return max(LEASE, 3 * pause(processes))


def balances(account: Report, models: Mapping[str, Report], name: str) -> dict[str, Decide]:
    """For an account, by its name, and for its models, which are balanced behind it: who has nothing of the account needs
    nothing of them."""
    told: list[Grant] = []

    def first(ledger: Ledger) -> Balance:
        made = balance(account, ledger)
        told[:] = [made.grant]
        return made

    def then(report: Report, ledger: Ledger) -> Balance:
        idle = told and not told[0].can_send
        return balance(replace(report, need=0.0, need_slots=0) if idle else report, ledger)

    found: dict[str, Decide] = {name: first}
    return found | {of: partial(then, report) for of, report in models.items()}


def balance(report: Report, ledger: Ledger) -> Balance:
    """What becomes of the rows of a scope as a process reports."""
    process, shares, now = ledger.process, ledger.shares, ledger.now
    pool = ledger.pool or Pool(at=now)
    mine = next((share for share in shares if share.process == process), None)
    others, over, remove = _living(ledger)
    me = _reported(process, report, mine, now, lease(len(others) + 1))
    held = sum(share.fraction for share in others)
    pool = _refilled(ledger, pool, report, over)
    free = max(0.0, 1 - held - me.fraction)
    paused = pool.paused_until if pool.paused_until <= now + LONGEST_TOLD else 0.0  # else the clock was set back
    again = mine is not None and 0 < report.number == mine.number
    pool = replace(
        pool,
        requests=min(free, pool.requests + (0.0 if again else report.requests)),
        tokens=min(free, pool.tokens + (0.0 if again else report.tokens)),
        paused_until=max(paused, report.paused_until),
    )
    ended = [_ghost(share) for share in over if any(share.windows.values())]
    if report.leaving:
        ghost = _ghost(_held(replace(me, until=now), report))
        write = [*ended, ghost] if ghost.windows else ended
        remove = [*remove, *([] if ghost.windows or mine is None else [process])]
        return Balance(pool=pool, write=write, remove=remove, grant=_grant(me, me, pool, report, others))
    all_ = targets([*others, me], report, now)
    wanted = all_[process]
    ghosts = [share for share in shares if share.ended and share.process != process]
    grown = _grown(me, wanted, report, [*others, *ghosts, *ended], free)
    gained = 0.0 if free <= 0 else (grown.fraction - me.fraction) / free
    requests, tokens = pool.requests * gained, pool.tokens * gained
    pool = replace(pool, requests=pool.requests - requests, tokens=pool.tokens - tokens)
    pool = _learned(pool, report, alone=not others, joined=mine is None, now=now)
    can_send = _has(grown, report)
    grown = replace(grown, can_send=can_send, turn=me.turn if can_send is me.can_send else now)
    grant = _grant(grown, _used(grown, others, all_), pool, report, others)
    grown = _held(grown, report)
    grant = replace(grant, requests=requests, tokens=tokens)
    return Balance(pool=pool, write=[*ended, grown], remove=remove, grant=grant)


def _living(ledger: Ledger) -> tuple[list[Share], list[Share], list[int]]:
    """The other shares that hold, those that have come to their end, and the processes whose rows go."""
    others, over, remove = [], [], []
    latest = ledger.now + 2 * lease(len(ledger.shares))  # what lasts longer is of a clock that was set back
    for share in ledger.shares:
        if share.process == ledger.process:
            continue
        if share.ended:
            if not ledger.now < share.until <= latest + max(map(float, share.windows), default=0.0):
                remove.append(share.process)
        elif share.process in ledger.gone or not ledger.now < share.until <= latest:
            over.append(replace(share, until=min(share.until, ledger.now)))
            if not any(share.windows.values()):
                remove.append(share.process)
        else:
            others.append(share)
    return others, over, remove


def _ghost(share: Share) -> Share:
    """What stays of one that is gone: what it may have sent within strict windows."""
    windows = {span: count for span, count in share.windows.items() if count}
    until = share.until + max(map(float, windows), default=0.0)
    return Share(process=share.process, since=share.since, until=until, windows=windows, ended=True)


def _reported(process: int, report: Report, mine: Share | None, now: float, lasts: float) -> Share:
    """What the process may use as it says: never more than it had."""
    had = mine if mine is not None and not mine.ended else None
    return Share(
        process=process,
        since=now if had is None else had.since,
        until=now + lasts,
        fraction=0.0 if had is None else min(report.fraction, had.fraction),
        slots=0 if had is None else min(report.slots, had.slots),
        windows={} if had is None else {span: min(n, had.windows.get(span, 0)) for span, n in report.windows.items()},
        need=report.need,
        need_slots=report.need_slots,
        minimum=min(1.0, report.minimum),
        pace=report.pace,
        number=report.number,
        can_send=had is not None and had.can_send,
        turn=0.0 if had is None else had.turn,
    )


def _held(share: Share, report: Report) -> Share:
    """With what it does not use any more, but others cannot use yet."""
    spans = {*share.windows, *report.sent}
    windows = {span: max(share.windows.get(span, 0), report.sent.get(span, 0)) for span in spans}
    return replace(share, slots=max(share.slots, report.in_flight), windows=windows)


def _refilled(ledger: Ledger, pool: Pool, report: Report, over: Sequence[Share]) -> Pool:
    """With what came back meanwhile: to what nobody held, and to what dead processes held since they could use it no more.
    What these had saved is lost."""
    now = ledger.now
    free = max(0.0, 1 - sum(share.fraction for share in ledger.shares))
    lost = [(share.fraction, now - share.until) for share in over]

    def level(saved: float, refill: float | None) -> float:
        if refill is None:  # a limit that is found later begins full
            return free + sum(fraction for fraction, _ in lost)
        saved = min(free, saved + free * refill * max(0.0, now - pool.at))
        return saved + sum(fraction * min(1.0, refill * since) for fraction, since in lost)

    return replace(
        pool,
        requests=level(pool.requests, report.requests_refill),
        tokens=level(pool.tokens, report.tokens_refill),
        at=now,
    )


def _grown(me: Share, wanted: Target, report: Report, others: Collection[Share], free: float) -> Share:
    """More, where that is wanted and free."""
    fraction = max(me.fraction, min(wanted.fraction, me.fraction + free))
    slots, most = me.slots, report.most_slots
    if most is not None and slots < wanted.slots:
        left = most - sum(share.slots for share in others)
        slots = max(slots, min(wanted.slots, left))
    windows = {}
    for span, limit in report.most.items():
        held = me.windows.get(span, 0)
        left = limit - sum(share.windows.get(span, 0) for share in others)
        windows[span] = max(held, min(wanted.windows[span], left))
    return replace(me, fraction=fraction, slots=slots, windows=windows)


def _has(share: Share, report: Report) -> bool:
    """Whether it can send anything."""
    rates = share.fraction > 0 or (report.requests_refill is None and report.tokens_refill is None)
    return (
        rates
        and (report.most_slots is None or share.slots > 0)
        and all(share.windows.get(span, 0) > 0 for span in report.most)
    )


def _grant(held: Share, used: Share, pool: Pool, report: Report, others: Sequence[Share]) -> Grant:
    return Grant(
        now=pool.at,
        until=held.until,
        processes=len(others) + 1,
        fraction=used.fraction,
        slots=used.slots,
        windows=used.windows,
        can_send=_has(used, report),
        excess=used != held,
        hungry=(used.need > 0 or used.need_slots > 0) and not _has(used, report),
        requests=0.0,
        tokens=0.0,
        learned=pool.learned,
        version=pool.version,
        others_pace=sum(share.pace for share in others),
        paused_until=pool.paused_until,
    )


def _used(grown: Share, others: Sequence[Share], wanted: Mapping[int, Target]) -> Share:
    """What it is to use: less than it holds where others are short of what they need."""
    mine = wanted[grown.process]
    fraction, slots, windows = grown.fraction, grown.slots, dict(grown.windows)
    for share in others:
        due = wanted[share.process]
        needs = min(due.fraction, max(share.need, share.minimum if share.need_slots else 0.0))
        if share.fraction < ENOUGH * needs:
            fraction = min(grown.fraction, mine.fraction)
        if share.slots < min(due.slots, share.need_slots):
            slots = min(grown.slots, mine.slots)
        for span, count in grown.windows.items():
            if share.need > 0 and share.windows.get(span, 0) < due.windows.get(span, 0):
                windows[span] = min(count, mine.windows.get(span, 0))
    return replace(grown, fraction=fraction, slots=slots, windows=windows)


# what everyone is to have


def targets(shares: Sequence[Share], report: Report, now: float) -> Mapping[int, Target]:
    """What each process is to have of a scope whose limits are as one of them reports."""
    shares = sorted(shares, key=lambda share: (share.since, share.process))
    whole = [most for most in (report.most_slots, *report.most.values()) if most is not None]
    needy = [share for share in shares if share.need > 0 or share.need_slots > 0]
    seated = _seated(needy or shares, min(whole, default=len(shares)), now)
    resting = [share for share in shares if not (share.need > 0 or share.need_slots > 0)] if needy else []
    fractions = _fractions(seated, resting)
    needs = {share.process: share.need_slots for share in seated}
    slots = _parts(report.most_slots, needs, resting)
    windows = {
        span: _parts(most, {share.process: _count(share.need, most) for share in seated}, resting)
        for span, most in report.most.items()
    }
    return {
        share.process: Target(
            fraction=fractions.get(share.process, 0.0),
            slots=slots.get(share.process, 0),
            windows={span: parts.get(share.process, 0) for span, parts in windows.items()},
        )
        for share in shares
    }


def _count(need: float, most: int) -> int:
    return most if need >= 1 else int(need * most) + 1


def _seated(shares: Sequence[Share], seats: int, now: float) -> list[Share]:
    """Those who can all have something at the same time; all of them if there is enough."""
    if len(shares) <= seats and sum(share.minimum for share in shares) <= 1 + _ROUNDING:
        return list(shares)

    def rank(share: Share) -> tuple[int, float]:
        return (2 * (now - share.turn >= TURN) if share.can_send else 1), share.turn

    found: list[Share] = []
    room = 1.0 + _ROUNDING
    for share in sorted(shares, key=rank):
        if len(found) >= seats or (share.minimum > room and found):
            break  # who needs much is not passed over for ever
        found.append(share)
        room -= share.minimum
    return sorted(found, key=lambda share: (share.since, share.process))


def _fractions(seated: Sequence[Share], resting: Sequence[Share]) -> dict[int, float]:
    needs = {share.process: max(share.minimum, min(1.0, share.need)) for share in seated}
    found = dict.fromkeys(needs, 0.0)
    room, open_ = 1.0, dict(needs)
    least = {share.process: share.minimum for share in seated}
    for process, minimum in least.items():  # those for whom an even part is not enough
        found[process] = min(minimum, room)
        room -= found[process]
    while open_ and room > _ROUNDING:
        low = min(found[process] for process in open_)
        lowest = [process for process in open_ if found[process] <= low + _ROUNDING]
        above = min((found[process] for process in open_ if found[process] > low + _ROUNDING), default=1.0)
        step = min(room / len(lowest), above - low, *(needs[process] - found[process] for process in lowest))
        for process in lowest:
            found[process] += step
            room -= step
        open_ = {process: need for process, need in open_.items() if need - found[process] > _ROUNDING}
    if room > _ROUNDING:
        sharing = [*seated, *(share for share in resting if room / (len(seated) + len(resting)) >= share.minimum)]
        for share in sharing:
            found[share.process] = found.get(share.process, 0.0) + room / len(sharing)
    return found


def _parts(most: int | None, needs: Mapping[int, int], resting: Sequence[Share]) -> dict[int, int]:
    """Whole numbers that add up to `most`: at least one for each of those who need any, then by need, the rest evenly."""
    if most is None:
        return {}
    found = dict.fromkeys(needs, 0)
    needs = {process: max(1, need) for process, need in needs.items()}
    left = most
    while left and (open_ := [process for process in found if found[process] < needs[process]]):
        step = max(1, min(left // len(open_), *(needs[process] - found[process] for process in open_)))
        for process in open_[:left]:
            found[process] += step
            left -= step
    sharing = [*found, *(share.process for share in resting)]
    for place, process in enumerate(sharing):
        found[process] = found.get(process, 0) + left // len(sharing) + (place < left % len(sharing))
    return found


# what was learned


def _learned(pool: Pool, report: Report, *, alone: bool, joined: bool, now: float) -> Pool:
    """Of two cuts that did not know of each other the lower rate holds; what was known before anyone was there is old."""
    if report.changed or (alone and joined):
        rival = pool.learned if pool.version != report.version and not (alone and joined) else None
        kept = _lower(report.learned, rival, now)
        return replace(pool, learned=kept, version=pool.version + 1)
    return pool


def _lower(one: LearnedRate | None, other: LearnedRate | None, now: float) -> LearnedRate | None:
    if one is None or other is None:
        return one or other
    return one if learned_rate(one, now) <= learned_rate(other, now) else other
