"""Functions of steps with `resources`: they are called on a node of a cluster (functions/remote.py), and told from here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from flowllm.cluster.base import Cluster, ClusterCall, travelling
from flowllm.core.errors import PythonFailed
from flowllm.core.redact import Redactor
from flowllm.core.types import Json
from flowllm.functions.errors import WholeError, shortened
from flowllm.functions.json_values import NotJson, to_json
from flowllm.language.workflow import PythonBody
from flowllm.steps.pipeline import too_late

TARGET: Final = "flowllm.functions.remote:call"


class ClusterFunctions:
    """Calls the functions of one run's steps on its cluster."""

    def __init__(self, cluster: Cluster, files: Mapping[str, str], redactor: Redactor) -> None:
        """`files` is path to text: the run's snapshot."""
        self._cluster = cluster
        self._files = files
        self._redactor = redactor
        self._names = travelling(files)

    async def call(
        self, body: PythonBody, arguments: Mapping[str, Json], *, name: str, limit: float, node: str
    ) -> Mapping[str, Json]:
        """What comes of a function, as `remote.call` says it. `name` is what it is called, `node` who calls it. Raises
        StepError, ClusterDown."""
        assert body.resources is not None  # noqa: S101 - others are called here
        try:
            plain = to_json(dict(arguments))
        except NotJson as error:
            raise PythonFailed(
                f"the arguments of {name} cannot be sent to a cluster: {error.message}",
                hint="hand over less, or a file's name",
            ) from None
        given = {"function": body.function, "arguments": plain, "limit": limit}
        work = ClusterCall(
            name=node, target=TARGET, code=self._code(body), given=json.dumps(given).encode(), resources=body.resources
        )
        found: dict[str, Json] = json.loads(await self._cluster.call(work))
        return found

    def _code(self, body: PythonBody) -> bytes:
        """Where the function is: on another machine its files are in the working folder, and here as they are in the snapshot."""
        file = body.file
        if file is None:
            return json.dumps({"file": None, "module": body.module, "files": {}}).encode()
        if self._cluster.remote:
            return json.dumps({"file": self._names[file], "files": {}}).encode()
        return json.dumps({"file": file, "files": {path: self._files[path] for path in (file, *body.helpers)}}).encode()

    def value(self, found: Mapping[str, Json], body: PythonBody, name: str, *, limit: float, left: float) -> Json:
        """What it gave. Raises StepError."""
        if "value" in found:
            return found["value"]
        if found.get("late"):
            raise too_late(f"{name} did not return", limit, "it was interrupted", attempt=limit < left)
        if "missing" in found:
            raise PythonFailed(found["missing"])
        if "not_json" in found:
            message, hint = found["not_json"]
            raise PythonFailed(f"{name} returned {self._redactor.text(message)}", hint=hint)
        message, place, traceback, hint = found["raised"]
        what = shortened(WholeError(message=message, place=place, traceback=traceback), clean=self._redactor.text)
        raise PythonFailed(
            f"{body.function} raised {what.line}", hint=self._redactor.text(hint), traceback=what.traceback
        )
