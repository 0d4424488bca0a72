"""Errors keep all they have on their way between processes."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import flowllm
from flowllm.core.errors import FlowLLMError, InvalidWorkflow, Problem, StorageFailed, StoreError, fuller
from flowllm.core.types import RunStatus, Usage
from flowllm.steps.loading import load_workflow

GIVEN = {
    "message": "it broke",
    "hint": "mend it",
    "answer": "no",
    "usage": Usage(input_tokens=3),
    "kind": "Refused",
    "status": RunStatus.PAUSED,
    "problems": [Problem(file="a.yaml", line=2, column=3, message="no")],
    "warnings": [Problem(file="a.yaml", line=1, column=1, message="hm", warning=True)],
    "reason": "refused",
    "retryable": True,
    "retry_after": 1.5,
    "traceback": "line 1",
    "database": "other.db",
    "run_id": "20261129-120000-abcde",
}


def _all(kind: type[FlowLLMError]) -> list[type[FlowLLMError]]:
    return [kind, *(one for below in kind.__subclasses__() for one in _all(below))]


def _classes() -> list[type[FlowLLMError]]:
    for module in pkgutil.walk_packages(flowllm.__path__, "flowllm."):
        if not module.name.rpartition(".")[2].startswith("__"):
            importlib.import_module(module.name)
    return sorted((one for one in set(_all(FlowLLMError)) if one.__module__.startswith("flowllm.")), key=str)


def test_every_error_is_pickled_and_copied_with_all_it_has() -> None:
    classes = _classes()
    assert len(classes) > 40
    for kind in classes:
        error = kind(**{name: GIVEN[name] for name in inspect.signature(kind).parameters})
        error.add_note("seen at noon")
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is kind
            assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error)), kind


def test_the_problems_of_a_file_come_back_from_another_process() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool, pytest.raises(InvalidWorkflow) as caught:
        pool.submit(load_workflow, "there/is/none.yaml").result(timeout=60)
    assert "none.yaml" in str(caught.value)
    assert caught.value.problems[0].file == "there/is/none.yaml"


def test_of_two_errors_of_the_storage_the_one_that_knows_where_results_are_kept_is_told() -> None:
    first = StorageFailed("the disk is full", hint="Free some space.")
    later = StorageFailed("the disk is full", hint="Free some space.\nThe results are kept in x.")
    assert fuller(None, first) is first
    assert fuller(first, later) is later
    assert fuller(later, first) is later
    of_another_kind = StoreError("no")
    assert fuller(of_another_kind, later) is of_another_kind
