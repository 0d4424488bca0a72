"""Every error that flowllm raises on purpose.

UsageError: what was asked for is wrong, nothing was started. RunStopped: the run ends before its nodes do. RunFailed: it has
ended without success, told to those who ask for an exception. StoreError: the database cannot be used. StepError: one node fails, and the run goes on with what does not need it; a ProviderError
among them is one failed attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, TypeVar

from flowllm.core.records import dataclass
from flowllm.core.types import Json, RunStatus, Usage

E = TypeVar("E", bound=Exception)


class FlowLLMError(Exception):
    """The base of all. `message` says what happened, `hint` what to do about it (may be empty)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """For pickle and copy, which would call the class with the message alone: many take more, or something else."""
        return _unpickled, (type(self), self.args, self.__dict__)


def _unpickled(kind: type[E], args: tuple[object, ...], state: dict[str, object]) -> E:
    """The error of that class and state, without its `__init__`."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


def type_name(error: BaseException) -> str:
    """The name of its class, also of a class that overrides `__name__`."""
    return str(type.__dict__["__name__"].__get__(type(error)))


def text_of(error: BaseException) -> str:
    """The text of any exception, or why there is none: the `__str__` of a foreign class may raise."""
    try:
        return str.__str__(str(error))
    except BaseException as problem:  # noqa: BLE001 - KeyboardInterrupt too: it is the text that raised it
        return f"<its text cannot be had: {type_name(problem)}>"


def describe_error(error: BaseException) -> str:
    """`Type: text`."""
    text = text_of(error)
    return f"{type_name(error)}: {text}" if text else type_name(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a file, or with an option (`--set …`), and where. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""
    source_line: str = ""
    step: str = ""
    warning: bool = False
    """It may be what was meant: it is shown, and nothing is refused for it."""

    def __str__(self) -> str:
        is_option = self.file.startswith("--")
        place = self.file if is_option else f"{self.file}:{self.line}:{self.column}"
        head = f"{place}: {'warning: ' if self.warning else ''}{self.message}"
        lines = [head if not self.hint else f"{head} ({self.hint})"]
        if self.source_line and not is_option:
            shown = self.source_line.replace("\t", " ")
            lines += [f"    {shown}", f"    {' ' * (self.column - 1)}^"]
        return "\n".join(lines)


def sorted_problems(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems in the order of files, lines and columns."""
    return tuple(sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column)))


class UsageError(FlowLLMError, ValueError):
    """What was asked for is wrong. Nothing was sent, nothing was changed."""

    exit_code = 2


class InvalidWorkflow(UsageError):
    """A file has problems; all of them are in `problems`, in the order of their lines. `warnings` are what else was found."""

    def __init__(self, problems: Sequence[Problem], *, warnings: Sequence[Problem] = ()) -> None:
        self.problems = sorted_problems(problems)
        self.warnings = sorted_problems(warnings)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InvalidInputs(UsageError):
    """The inputs given do not fit those that the workflow names."""


class PackageMissing(UsageError, ImportError):
    """What was asked for needs a package that is not installed; `hint` says how to install it."""


class RunNotFound(UsageError, LookupError):
    """There is no run of that id."""


class RunOwned(UsageError):
    """Another process has the run."""


class DatabaseTooNew(UsageError):
    """The database was written by a newer flowllm. It was not touched."""


class RunStopped(FlowLLMError):
    """The run ends before its nodes do; `status` is that of the run."""

    status: RunStatus = RunStatus.PAUSED

    def as_dict(self) -> dict[str, Json]:
        """The error as it stands in records and JSON output: type, message, hint."""
        return {"type": type(self).__name__, "message": self.message, "hint": self.hint}

    @classmethod
    def again(cls, error: Mapping[str, Json], status: RunStatus) -> RunStopped:
        """The error that `as_dict` gave, in another process."""
        kinds = {kind.__name__: kind for kind in cls.__subclasses__()}
        found = RunStopped.__new__(kinds.get(str(error["type"]), cls))
        FlowLLMError.__init__(found, str(error["message"]), hint=str(error["hint"]))
        found.status = status
        return found


class ProviderDown(RunStopped):
    """A provider cannot be used for now; runs that need it are paused and can be resumed."""


class ClusterDown(RunStopped):
    """There is no cluster, or no longer; runs that need one are paused and can be resumed."""


class BudgetExceeded(RunStopped):
    """The next request would pass the run's budget."""

    def __init__(self, message: str, *, hint: str, status: RunStatus) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class TooManyFailures(RunStopped):
    """More nodes failed than `stop_at_error_rate` allows."""

    status = RunStatus.FAILED


class RunFailed(FlowLLMError):
    """A run that has not succeeded, where that is wanted as an exception: see `RunResult.raise_for_status`."""

    def __init__(self, message: str, *, hint: str = "", run_id: str = "", status: RunStatus = RunStatus.FAILED) -> None:
        super().__init__(message, hint=hint)
        self.run_id = run_id
        self.status = status


class StoreError(FlowLLMError):
    """The database cannot be used."""


class StorageFailed(StoreError, OSError):
    """Disk full, read-only, I/O error, locked for too long, or no longer there.

    `database` is the path of the one to go on with, if that is another now.
    """

    def __init__(self, message: str, *, hint: str = "", database: str = "") -> None:
        super().__init__(message, hint=hint)
        self.database = database


def fuller(known: BaseException | None, later: BaseException) -> BaseException:
    """The one to tell of two: the first, unless both are of the storage and only the later one knows where results are kept."""
    if isinstance(known, StorageFailed) and isinstance(later, StorageFailed) and len(later.hint) > len(known.hint):
        return later
    return later if known is None else known


class DatabaseCorrupt(StoreError):
    """The database's content contradicts itself."""


class OwnershipLost(StoreError):
    """The run was taken over by another process; nothing more of it may be written here."""


class StepError(FlowLLMError):
    """One node fails.

    `answer` is the last answer, when there was one; `usage` is what was spent on it.
    """

    retryable: bool = False
    """Another attempt may go better."""

    def __init__(self, message: str, *, hint: str = "", answer: str | None = None, usage: Usage | None = None) -> None:
        super().__init__(message, hint=hint)
        self.answer = answer
        self.usage = usage
        self.cost_usd: float | None = None
        """US dollars, where the server said what the answer cost."""

    def as_dict(self) -> dict[str, Json]:
        """The error as it stands in records and JSON output: type, message, hint, and the answer if any."""
        record = {"type": type(self).__name__, "message": self.message, "hint": self.hint}
        return record if self.answer is None else {**record, "answer": self.answer}


class TemplateFailed(StepError):
    """A template could not be rendered with these values."""


class ConditionFailed(StepError):
    """A condition gave something that is neither true nor false."""


class PythonFailed(StepError):
    """A function of the user's raised, or gave what JSON cannot hold. `traceback` is its code's, where it raised."""

    retryable = True

    def __init__(self, message: str, *, hint: str = "", traceback: str = "") -> None:
        super().__init__(message, hint=hint)
        self.traceback = traceback

    def as_dict(self) -> dict[str, Json]:
        """As of any other, with the traceback if there is one."""
        record = super().as_dict()
        return {**record, "traceback": self.traceback} if self.traceback else record


class WorkLost(StepError):
    """A node of a cluster did not come to the end of what it was given."""

    retryable = True


class AskFailed(StepError):
    """A call by `ask` of a function failed. `kind` names the error, such as InvalidAnswer; `answer` is the last answer, when
    there was one. A function may catch it and go on."""

    def __init__(self, kind: str, message: str, *, hint: str = "", answer: str | None = None) -> None:
        super().__init__(f"{kind}: {message}", hint=hint, answer=answer)
        self.kind = kind


class ShellFailed(StepError):
    """The command ended with another status than 0, or was killed."""

    retryable = True


class HttpFailed(StepError):
    """The answer was not 2xx, or none came."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        answer: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, answer=answer)
        self.retryable = retryable
        self.retry_after = retry_after
        """Seconds that the server asked for."""


class BadRow(StepError):
    """A line of a data set cannot be read; the message names file and line."""


class DataFailed(StepError):
    """A data set cannot be read at all."""


class ImageFailed(StepError):
    """An image cannot be read, is none, or has changed since the step began; the message names the file."""


class SaveFailed(StepError):
    """The output could not be written where `save` says."""


class ItemsFailed(StepError):
    """Too many items of a foreach failed."""


class GraphFailed(StepError):
    """A step of a sub-workflow failed."""


class NodeTimedOut(StepError, TimeoutError):
    """All attempts together took longer than the step's `timeout`."""


class InvalidAnswer(StepError):
    """The answer did not satisfy `output`, also when it was asked for again."""


class TruncatedAnswer(StepError):
    """The answer was cut at its token limit and the step says `on_truncated: fail`."""


class InternalError(StepError):
    """A fault of flowllm itself; it costs one node, not the run."""


class ProviderError(StepError):
    """One attempt failed. `status` is the HTTP status, where there was one; `retry_after` is the wait in seconds that the
    server asked for, None if it did not say."""

    status: int | None = None

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        answer: str | None = None,
        usage: Usage | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, answer=answer, usage=usage)
        self.status = self.status if status is None else status
        self.retry_after = retry_after


class RateLimited(ProviderError):
    """429."""

    retryable = True
    status = 429


class QuotaExhausted(ProviderError):
    """The account has nothing left to spend; trying again does not help."""


class ServerFailed(ProviderError):
    """The server is in trouble, or could not do it just then: 5xx, 408, 409, 423, 425 and the like."""

    retryable = True


class ConnectionFailed(ProviderError, ConnectionError):
    """No answer came: refused, reset, unknown host, closed early.

    `reason` is refused, unknown_host, unreachable, reset, closed, protocol, tls, proxy or files."""

    retryable = True

    def __init__(self, message: str, *, hint: str = "", reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class AttemptTimedOut(ProviderError, TimeoutError):
    """No whole answer came within `attempt_timeout`. It may have been paid for all the same."""

    retryable = True


class Unauthorized(ProviderError, PermissionError):
    """401 or 403: the key is missing, wrong, or not allowed to do this."""


class RequestRejected(ProviderError):
    """The server does not accept the request; sending it again would give the same."""


class UnknownModel(RequestRejected):
    """The server does not have the model."""


class RequestTooLarge(RequestRejected):
    """The request is more than the model's context, or than a minute's limit: it can never go. Another model may take
    it."""


class PathNotFound(RequestRejected):
    """The server has nothing at that address, or sends elsewhere, as with a wrong `base_url`."""


class Refused(ProviderError):
    """The model declined to answer; its words are in `answer`."""


class ContentFiltered(ProviderError):
    """The provider's content filter stopped the answer; what there was of it is in `answer`."""


class BadAnswer(ProviderError):
    """The server said 200, but what it sent is no answer. The raw text is in `answer`."""

    retryable = True


class EmptyAnswer(BadAnswer):
    """The model said not one word. The server is well: it is this answer alone that cannot be used."""


class WrongVectors(BadAnswer):
    """The embeddings do not fit the texts: too few, too many, or one that is no vector. With fewer texts in a request
    the others may well get theirs."""
