"""What all attempts of one call share."""

from __future__ import annotations

from flowllm.calls.base import PendingCall
from flowllm.calls.conversation import Conversation
from flowllm.calls.response_cache import waited
from flowllm.core.clock import Clock
from flowllm.core.types import WaitReason
from flowllm.limits.prefix_cache import Lineup
from flowllm.storage.base import Elsewhere, Store


class CallState:
    """What all attempts of one call share: what it has taken so far, in seconds, dollars and requests."""

    def __init__(
        self,
        pending: PendingCall,
        conversation: Conversation,
        store: Store,
        clock: Clock,
        reported_ends: set[tuple[str, str, str]],
    ) -> None:
        self.pending = pending
        self.call = pending.call
        self.conversation = conversation
        self.store = store
        self.clock = clock
        self.reported_ends = reported_ends
        self.lineup: Lineup | None = None
        """Where a prompt stands among those that begin the same."""
        self.attempts = 0
        self.queue_s = 0.0
        self.call_s = 0.0
        self.backoff_s = 0.0
        self.length = 0
        """Tokens that the answer to the request is expected to have; of texts to embed, theirs."""
        self.cost_usd: float | None = 0.0
        self.looked = pending.looked
        """When the response cache was read last."""
        self.joins = self.call.join and self.call.read_memo
        """An equal request of another process will do."""
        self.elsewhere: Elsewhere | None = None
        """Why one was not begun here."""
        self._counted = 0.0
        """Up to when `call_s` has what was on the wire (monotonic seconds)."""

    @property
    def active_s(self) -> float:
        """What counts against the step's timeout."""
        return self.call_s + self.backoff_s - self.call.idle()

    def called(self, since: float, until: float) -> None:
        """A request was on the wire then; seconds of another one's that are counted count once."""
        self.call_s += max(0.0, until - max(since, self._counted))
        self._counted = until

    def uncounted(self, since: float | None) -> float:
        """Seconds of a request on the wire since then that `call_s` does not have yet."""
        return 0.0 if since is None or since < self._counted else self.clock.monotonic() - since

    def pay(self, cost: float | None) -> None:
        """One unknown price makes the sum unknown."""
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost

    def waiting(self, reason: WaitReason, until: float | None) -> None:
        """Tell that the call waits for that, until about then (wall clock)."""
        for caller in self.pending.callers():
            caller.tell_waiting(reason, at=self.clock.now(), until=until)

    def waited(self, reason: WaitReason, seconds: float) -> None:
        """Add seconds that the call has waited."""
        waited(self.pending, reason, seconds)
