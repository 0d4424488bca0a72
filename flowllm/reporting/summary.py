"""What is said when a run is over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping

from flowllm.core.errors import ItemsFailed
from flowllm.core.events import Event, FailuresHigh, NodeEnded, NodeStarted, NodeSuspended, RunEnded, RunStarted
from flowllm.core.money import dollars, price
from flowllm.core.types import ROW, RUN_RESUMABLE, Json, NodeStatus, RunStatus
from flowllm.reporting.followed import ItemsRead
from flowllm.reporting.foreach_progress import ROWS
from flowllm.reporting.models import model_lines, response_cache_line, worth_a_table
from flowllm.reporting.progress import MOST_ITEM_ERRORS, SIMULATED_NOTICE, what_ended
from flowllm.reporting.screen import Part, status_part
from flowllm.reporting.text import (
    at_least,
    duration,
    error_text,
    item_shares,
    one_line,
    plural,
    resume_options,
    short_path,
    suspended_text,
    visible,
    without_items,
)

NOTABLE_SHARE = 0.5
"""Share of a rate in use from which it is named."""
MOST_ERRORS = 20
"""Errors listed one by one; the rest is counted."""
MOST_CUT = 5
"""Nodes named whose answers were cut; of more, steps are named with how many."""
_INDEX = re.compile(r"\[\d+\]")
LONGEST = 4000
"""Characters of an error that are kept."""
_REQUESTS = {
    "cached": "cached",
    "joined": "joined",
    "retried": "retried",
    "rate_limited": "rate limited",
    "hedged": "sent twice",
}
_ORDER = ("succeeded", "cached", "reused", "failed", "skipped", "blocked", "cancelled")


class Summary:
    """Keeps what the end of a run needs, and puts it into lines. What it keeps does not grow with the items."""

    def __init__(self, *, tracebacks: bool = False, errors_shown: bool = False) -> None:
        """`tracebacks`: of errors in functions of the user's, too. `errors_shown`: errors of steps and items were shown when
        they happened (see `Progress`), so that they are not said again."""
        self._errors_shown = errors_shown
        self._tracebacks = tracebacks
        self.ended: RunEnded | None = None
        self._started: RunStarted | None = None
        self._outcomes: Counter[str] = Counter()
        """Of the steps at the top."""
        self._items: dict[str, dict[str, int]] = {}
        """Items by status, for each foreach that is not itself within an item."""
        self._counts: dict[str, Mapping[str, Json]] = {}
        """The same of those that have ended, with the items of earlier attempts."""
        self._errors: list[tuple[str, Mapping[str, Json]]] = []
        self._more_errors = 0
        """Errors that were not kept."""
        self._truncated: list[str] = []
        """The first nodes whose answers were cut, one more than are named."""
        self._cut: Counter[str] = Counter()
        """Answers that were cut by step, whatever the item."""
        self._unpriced: set[str] = set()
        self._failures: FailuresHigh | None = None
        self._suspended: dict[str, NodeSuspended] = {}
        """The first nodes that wait for a value from outside."""

    def handle(self, event: Event) -> None:
        """Take note of one event."""
        match event:
            case NodeEnded():
                self._node_ended(event)
                self._suspended.pop(event.node_id, None)
            case NodeSuspended():
                if len(self._suspended) < MOST_ERRORS or event.node_id in self._suspended:
                    self._suspended[event.node_id] = event
            case NodeStarted():
                self._suspended.pop(event.node_id, None)
            case ItemsRead():
                self._items_read(event)
            case RunStarted():
                self._started = event
            case FailuresHigh():
                self._failures = event
            case RunEnded():
                self.ended = event
            case _:
                pass

    @property
    def run_id(self) -> str:
        """The run's; empty before it has started."""
        return "" if self._started is None else self._started.run_id

    def _node_ended(self, event: NodeEnded) -> None:
        if event.truncated:
            if len(self._truncated) <= MOST_CUT:
                self._truncated.append(event.node_id)
            self._cut[_INDEX.sub("", event.node_id)] += 1
        if event.cost_usd is None and event.model and event.usage.total is not None:
            self._unpriced.add(event.model)
        if "[" in event.node_id:
            if event.place is not None and "[" not in event.parent:
                self._item_ended(event)
            return
        if event.counts is not None:
            self._counts[event.node_id] = event.counts
        if event.status is NodeStatus.FAILED and self._is_news(event):
            self._note_error(event.node_id, event.error, event)
        if not event.parent:
            outcome = event.status.value
            if event.status is NodeStatus.SUCCEEDED:
                outcome = "reused" if event.reused else "cached" if event.cached else outcome
            self._outcomes[outcome] += 1

    def _is_news(self, event: NodeEnded) -> bool:
        """What fails a graph within a step is shown with that step, rows that failed by their number."""
        if event.node_id == ROWS:
            return not (event.counts or {}).get("failed")
        return event.tolerated or not event.parent

    def _item_ended(self, event: NodeEnded) -> None:
        found = self._items.get(event.parent)
        if found is None:
            found = self._items[event.parent] = {"total": 0}
        status = event.status.value
        found["total"] += 1
        found[status] = found.get(status, 0) + 1
        if event.status is NodeStatus.FAILED and not self._errors_shown:
            if found[status] <= MOST_ITEM_ERRORS:
                self._note_error(event.node_id, event.error, event)
            else:
                self._more_errors += 1

    def _items_read(self, event: ItemsRead) -> None:
        before = self._items.get(event.node_id, {}).get("failed", 0)
        succeeded = event.ended - event.failed - event.skipped
        shares = {"succeeded": succeeded, "failed": event.failed, "skipped": event.skipped}
        self._items[event.node_id] = {"total": event.ended, **shares}
        if not self._errors_shown:
            named = event.errors[: max(0, MOST_ITEM_ERRORS - before)]
            for node, error in named:
                self._note_error(node, error)
            self._more_errors += max(0, event.failed - before - len(named))

    def _note_error(self, node: str, error: Mapping[str, Json] | None, ended: NodeEnded | None = None) -> None:
        if error is None:
            return
        if len(self._errors) < MOST_ERRORS:
            if any(one.startswith(f"{node}[") for one, _ in self._errors):
                error = without_items(node, error)
            short = {name: str(error.get(name) or "")[:LONGEST] for name in ("type", "message", "hint")}
            if ended is not None and ended.reused:
                short["message"] = f"{short['message']} (reused: --retry-failed runs it again)"
            if self._tracebacks and error.get("traceback"):
                short["traceback"] = error["traceback"]
            if ended is not None and ended.tolerated:
                short["tolerated"] = "true"
            self._errors.append((node, short))
        else:
            self._more_errors += 1

    def lines(
        self, resume_command: str = "", failed_command: str = "", file: str = "", *, width: int | None = None
    ) -> list[tuple[Part, ...]]:
        """The whole summary; empty before the run ended. `resume_command` goes on with this run, `failed_command`
        prints its failed items, `file` is its workflow's, `width` is that of the terminal, if it is one."""
        if self.ended is None:
            return []
        status = self.ended.status
        stats = self.ended.stats
        models = model_lines(stats.get("models", ()), width) if worth_a_table(stats) else []
        found = [self._headline(self.ended), *figures(stats, self._unpriced, latency=not models), *models]
        found += self._notes()
        if self.ended.error is not None and not self._is_shown(self.ended.error):
            found += error_lines("", self.ended.error)
        for node, error in self._errors:
            if not self._errors_shown or node == ROWS:
                found += error_lines(node, error)
        for node, one in self._suspended.items():
            found.append((f"{node} waits: {suspended_text(one.kind, one.token, one.due_at)}",))
        if self._more_errors and not self._errors_shown:
            found.append((f"and {self._more_errors:,} more",))
        if failed_command and any(counts.get("failed") for counts in self._of_items().values()):
            found.append(("the failed items, to be mended for resume --mended: ", (failed_command, "bold")))
        if status in RUN_RESUMABLE and resume_command:
            ended = [] if self.ended.error is None else [self.ended.error]
            errors = [*ended, *(error for _, error in self._errors if not error.get("tolerated"))]
            resume_command += resume_options(
                status, errors, file, tolerated=len(errors) - len(ended) < len(self._errors)
            )
            found.append(("resume it with: ", (resume_command, "bold")))
        return found

    def _is_shown(self, error: Mapping[str, Json]) -> bool:
        """Rows that failed are shown by their number, what fails a step with the step."""
        if self._over and error.get("type") == ItemsFailed.__name__:
            return True
        said = str(error.get("message"))
        return any(said == one.get("message") or said.startswith(f"{one.get('message')}; ") for _, one in self._errors)

    @property
    def _over(self) -> bool:
        return self._started is not None and self._started.over is not None

    def _of_items(self) -> dict[str, Mapping[str, Json]]:
        """What is known of each foreach by now."""
        return {**self._items, **self._counts}

    def _headline(self, ended: RunEnded) -> tuple[Part, ...]:
        of_items = self._of_items()
        if self._started is not None and self._over:
            rows = of_items.get(ROW, {})
            written = ended.status is RunStatus.SUCCEEDED or rows.get("succeeded")
            text = [_rows(rows, self._started.output if written else None)]
        else:
            text = [self._steps(), *(self._foreach(node, counts) for node, counts in of_items.items())]
        said = "; ".join(one for one in text if one)
        status = status_part(ended.status)
        return (status, f" in {duration(ended.duration_s)}{': ' if said else ''}{said}")

    def _steps(self) -> str:
        total, nodes = sum(self._outcomes.values()), 0 if self._started is None else self._started.nodes
        if not total:
            return ""
        shares = [f"{self._outcomes[name]:,} {name}" for name in _ORDER if self._outcomes[name]]
        text = "" if self._outcomes["succeeded"] == total else f", {', '.join(shares)}"
        count = plural(total, "step") if total >= nodes else f"{total:,} of {plural(nodes, 'step')}"
        return f"{count}{text}"

    def _foreach(self, node: str, counts: Mapping[str, Json]) -> str:
        """`posts 50,000 items (49,997 succeeded, 3 failed)`."""
        so_far = "" if node in self._counts else " so far"
        all_well = counts.get("succeeded") == counts["total"]
        shares = "" if all_well else f" ({item_shares(counts)})"
        return f"{node} {plural(counts['total'], 'item')}{so_far}{shares}"

    def _notes(self) -> list[tuple[Part, ...]]:
        found: list[tuple[Part, ...]] = []
        if self._truncated:
            few = len(self._truncated) <= MOST_CUT
            names = sorted(self._truncated, key=_by_number) if few else _counted(self._cut)
            found.append((("cut short: ", "yellow"), f"{', '.join(names)}; raise max_tokens to get whole answers"))
        if self._failures is not None:
            seen = self._failures
            when = f" ({seen.failed:,} of the first {seen.ended:,} carried out)"
            found.append(((f"many {what_ended(seen)} failed", "bold red"), when))
        if self._started is not None and self._started.simulated:
            found.append(((SIMULATED_NOTICE, "yellow"),))
        return found


def _rows(counts: Mapping[str, Json], output: str | None) -> str:
    """`rows: 4, 3 succeeded, 1 failed; written to out.jsonl`."""
    shares = item_shares(counts)
    text = f"rows: {counts.get('total', 0):,}{', ' if shares else ''}{shares}"
    if output is None:
        return text
    return f"{text}; written to {'standard output' if output == '-' else short_path(output)}"


def error_lines(step: str, error: Mapping[str, Json]) -> list[tuple[Part, ...]]:
    """An error and, below it, what to do about it, and the traceback if its record has one."""
    where = f" {step}:" if step else ""
    lines: list[tuple[Part, ...]] = [(("error:", "bold red"), f"{where} {error_text(error)}")]
    if hint := error.get("hint"):
        lines += [(f"  {visible(line)}",) for line in str(hint).splitlines()]
    if traceback := error.get("traceback"):
        lines += [(f"    {visible(line)}",) for line in str(traceback).splitlines()]
    return lines


def _counted(cut: Counter[str]) -> list[str]:
    """`row.mood 1,204 times`, most first; of many steps the first ones."""
    named = [f"{step} {plural(count, 'time')}" for step, count in cut.most_common(MOST_CUT)]
    return named if len(cut) <= MOST_CUT else [*named, f"and {plural(len(cut) - MOST_CUT, 'other step')}"]


def _by_number(node: str) -> list[str | int]:
    """For sorting: `a[2]` before `a[10]`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", node)]


def figures(
    stats: Mapping[str, Json], unpriced: Collection[str] = (), *, latency: bool = True
) -> list[tuple[Part, ...]]:
    """Requests, tokens, cost and, unless the table by model has it, latency; of a run that was resumed what it took in all."""
    requests = stats.get("requests", {})
    counts = [f"{requests.get('sent', 0):,} sent"]
    counts += [f"{requests[name]:,} {word}" for name, word in _REQUESTS.items() if requests.get(name)]
    attempt = stats.get("since_resumed")
    taken = took(attempt or stats, unpriced, stats.get("list_prices", ()))
    found: list[tuple[Part, ...]] = [(f"requests: {', '.join(counts)}; {taken}",)]
    if attempt is not None:
        found.append((f"the whole run: {took(stats, unpriced)}",))
    if cached := from_prompt_cache(stats.get("prompt_cache", {})):
        found.append((cached,))
    if stored := response_cache_line(stats.get("models", ())):
        found.append((stored,))
    took_s = stats.get("latency_s", {})
    if latency and took_s.get("p50") is not None:
        found.append((f"latency: {', '.join(f'{name} {duration(took_s[name])}' for name in ('p50', 'p90', 'p99'))}",))
    found += [(line,) for line in limits(stats.get("limits", {}))]
    return found


def from_prompt_cache(figures: Mapping[str, Json]) -> str:
    """`prompt cache: 86% of the tokens in were read from the provider's cache, which saved $0.42`; empty where none were."""
    if not figures.get("cached_input_tokens"):
        return ""
    share = figures["cached_input_tokens"] / figures["input_tokens"]
    saved = f", which saved {dollars(figures['saved_usd'])}" if figures.get("saved_usd") else ""
    return f"prompt cache: {share:.0%} of the tokens in were read from the provider's cache{saved}"


def took(stats: Mapping[str, Json], unpriced: Collection[str] = (), list_prices: Collection[str] = ()) -> str:
    """`tokens: 244 in, 396 out; cost: $0.25`, with what is known of them and what was set aside for the rest."""
    usage, least, unknown = stats.get("usage", {}), stats.get("at_least", {}), stats.get("unknown", {})
    tokens = ", ".join(
        f"{at_least(usage.get(name, 0), least.get(name, 0), '{:,}'.format)} {word}"
        for name, word in (("input_tokens", "in"), ("output_tokens", "out"))
    )
    reserved = unknown.get("reserved_tokens")
    if tokens == "unknown in, unknown out":
        tokens = f"unknown{f' (up to {reserved:,})' if reserved else ''}"
    elif reserved:
        tokens += f" (up to {reserved:,} more)"
    cost = price(stats, [one_line(name) for name in unpriced])
    listed = f" (list price of {one_line(', '.join(list_prices))})" if list_prices else ""
    return f"tokens: {tokens}; cost: {cost}{listed}"


def limits(gauges: Mapping[str, Mapping[str, Json]]) -> list[str]:
    """How busy each account was kept, where it has a rate; how many requests in flight were found to suit it."""
    found = [
        f"limit of {one_line(name)}: {gauge['learned_concurrent']:,} requests in flight, found"
        for name, gauge in gauges.items()
        if gauge.get("learned_concurrent") is not None
    ]
    return found + [
        f"limit of {one_line(name)}: {gauge['requests_per_minute']:,.0f} requests a minute, "
        f"{gauge['utilisation']:.0%} used" + (", learned" if gauge["learned_per_minute"] is not None else "")
        for name, gauge in gauges.items()
        if gauge["requests_per_minute"] is not None and (gauge["utilisation"] or 0) >= NOTABLE_SHARE
    ]
