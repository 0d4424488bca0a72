"""The process by which a run uses Ray: `python -P -m flowllm.cluster.ray FD`, started by process.py.

Ray has a process of its own as it takes signals, streams and the environment of the one that it is in, and ends it when it
loses the cluster; and so that somebody stops it and removes its files where the process of the run is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import sys
from typing import Any, Final

import ray
from ray import exceptions

from flowllm.cluster.actor import WorkerActor
from flowllm.cluster.base import LOCAL
from flowllm.cluster.frames import frame, read_frame
from flowllm.core.fingerprint import digest
from flowllm.core.types import Json

PATIENCE: Final = 5.0
"""Seconds that what was cancelled gets to end by itself."""
LOGS_LATE: Final = 0.6
"""Seconds by which what a function printed may come after what it gives."""
OBJECT_STORE: Final = 128 * 2**20
"""Bytes of a local cluster's: what large arguments and results need."""
DEATHS: Final = 4
"""How often in a row a worker is started again that dies soon,"""
STEADY: Final = 60.0
"""within so many seconds."""
TRIES: Final = 3
"""How often a cluster that answers is connected to."""
FINISHING: Final = 60.0
"""Seconds that workers get to finish what they have in flight."""
REACHABLE: Final = 5.0
"""Seconds in which the port of a cluster answers."""


class Failed(Exception):
    """What a person should read: what happened, and what to do."""


def _carry_out(target: str, code: bytes, given: bytes) -> bytes:
    """On a node: what that function of flowllm's gives."""
    module, _, function = target.partition(":")
    found: bytes = getattr(importlib.import_module(module), function)(code, given)
    return found


def _address() -> str:
    """On a node: where it finds its cluster."""
    return str(ray.get_runtime_context().gcs_address)


class Helper:
    """Does what the process of the run asks for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, Any] = {}
        self._code: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._function: Any = None
        self._actor: Any = None
        self._address = ""
        """Of the cluster, as its nodes see it."""
        self._workers: dict[int, Any] = {}
        self._working: list[asyncio.Task[None]] = []
        self._stopped: set[int] = set()
        self._ended_at = 0.0

    async def serve(self) -> None:
        """Until the other side is gone, or says so."""
        opening, _ = await read_frame(self._reader)
        try:
            await connect(opening)
            self._function = ray.remote(max_retries=0)(_carry_out)
            self._actor = ray.remote(WorkerActor)
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        except Exception as error:  # noqa: BLE001 - whatever Ray raises
            self._send({"did": "failed", "message": _words(error)})
            return
        self._send({"did": "opened", "nodes": nodes})
        with contextlib.suppress(EOFError, asyncio.IncompleteReadError):
            await self._obey()
        await self._end()

    async def _obey(self) -> None:
        while True:
            message, data = await read_frame(self._reader)
            match message["do"]:
                case "share":
                    self._code[digest(data.decode())] = ray.put(data)
                case "call":
                    self._start(self._call(message, data))
                case "cancel":
                    self._start(self._cancel(message["id"]))
                case "work":
                    self._working.append(self._start(self._work(message, json.loads(data))))
                case "stop":
                    self._stop(message["id"], cancel=message["cancel"])
                case "close":
                    break

    async def _end(self) -> None:
        """Let workers whose run's process was killed finish what they have in flight, and what was printed come."""
        for number in self._workers:
            self._stop(number, cancel=False)
        if self._working:
            await asyncio.wait(self._working, timeout=FINISHING)
        await asyncio.sleep(max(0.0, self._ended_at + LOGS_LATE - asyncio.get_running_loop().time()))

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _send(self, message: dict[str, Json], data: bytes = b"") -> None:
        self._writer.write(frame(message, data))

    async def _call(self, message: dict[str, Json], given: bytes) -> None:
        number, wanted = message["id"], message["resources"]
        try:
            reference = self._function.options(
                name=message["name"],
                num_cpus=wanted.get("cpu", 1),
                num_gpus=wanted.get("gpu", 0),
                memory=wanted.get("memory"),
            ).remote(message["target"], self._code[message["code"]], given)
            self._calls[number] = reference
            self._send({"did": "done", "id": number}, await _result(reference))
        except Exception as error:  # noqa: BLE001 - whatever Ray raises
            self._send({"did": "lost", "id": number, "message": _words(error)})
        finally:
            self._calls.pop(number, None)
            self._ended_at = asyncio.get_running_loop().time()

    async def _work(self, message: dict[str, Json], environ: dict[str, str]) -> None:
        """Have one worker, which Ray starts again where its node or its actor dies, until its process has ended."""
        number = message["id"]
        if not self._address:
            self._address = f"ray:{await _result(ray.remote(num_cpus=0)(_address).remote())}"
        environ = {**environ, "FLOWLLM_CLUSTER": self._address}
        actor = self._workers[number] = self._actor.options(
            num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD"
        ).remote()
        listening = asyncio.ensure_future(self._listen(number, actor))
        deaths = 0
        try:
            while True:
                began = asyncio.get_running_loop().time()
                try:
                    code, said = await _result(actor.work.remote(message["words"], environ))
                except exceptions.RayActorError as error:
                    lived = asyncio.get_running_loop().time() - began
                    deaths = 1 if lived > STEADY else deaths + 1
                    if number in self._stopped or deaths > DEATHS:
                        raise
                    self._send({"did": "said", "id": number, "lines": [f"Ray starts it again: {_words(error)}"]})
                    await asyncio.sleep(deaths - 1)
                    continue
                self._send({"did": "worked", "id": number, "code": code, "said": said})
                return
        except Exception as error:  # noqa: BLE001 - whatever Ray raises
            self._send({"did": "worked", "id": number, "code": 1, "said": _words(error)})
        finally:
            listening.cancel()
            del self._workers[number]
            with contextlib.suppress(Exception):
                ray.kill(actor)

    async def _listen(self, number: int, actor: Any) -> None:
        """Hand on what a worker says."""
        while True:
            try:
                lines = await _result(actor.said.remote())
            except exceptions.RayActorError:  # it is started again
                lines = None
            if lines:
                self._send({"did": "said", "id": number, "lines": lines})
            else:
                await asyncio.sleep(1.0)

    def _stop(self, number: int, *, cancel: bool) -> None:
        self._stopped.add(number)
        if number in self._workers:
            self._workers[number].stop.remote(cancel)

    async def _cancel(self, number: int) -> None:
        """Interrupt it, and end its process if that does not help."""
        for force in (False, True):
            reference = self._calls.get(number)
            if reference is None:
                return
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=force)
            await asyncio.sleep(PATIENCE)


async def _result(reference: Any) -> Any:
    """What it becomes. Ray's client does not bear that a future of its own is cancelled, so that is never handed on."""
    found = asyncio.wrap_future(reference.future())
    found.add_done_callback(
        lambda done: done.cancelled() or done.exception()
    )  # heard, also where nobody waits any more
    return await asyncio.shield(found)


async def connect(opening: dict[str, Json]) -> None:
    """Start a cluster, or connect to one. Raises whatever Ray raises."""
    address, common = opening["address"], {"log_to_driver": True, "logging_level": "ERROR", "configure_logging": True}
    if address == LOCAL:
        ray.init(
            address=LOCAL,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            _node_ip_address="127.0.0.1",
            _temp_dir=opening["folder"],
            **common,
        )
        return
    if opening["host"]:
        await _reach(opening["host"], opening["port"])
    environment = {"working_dir": opening["stage"], "py_modules": [opening["package"]]}
    for left in reversed(range(TRIES)):
        try:
            ray.init(address=address, runtime_env=environment, **common)
        except ConnectionError:  # a busy head takes longer than Ray waits to start what serves a client
            if not left:
                raise
            ray.shutdown()
        else:
            return


async def _reach(host: str, port: int) -> None:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), REACHABLE)
    except (OSError, TimeoutError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise Failed(f"nothing of Ray at {host}:{port}: {reason}") from None
    writer.close()


def _words(error: Exception) -> str:
    """What happened, on one line."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return "its node ran out of memory, and Ray ended its process"
    if isinstance(error, exceptions.TaskCancelledError):
        return "it was cancelled"
    if isinstance(error, exceptions.RayActorError):
        return "its actor died (killed, out of memory, or with its node)"
    if isinstance(error, exceptions.WorkerCrashedError):
        return "its process on the cluster ended before it was done (killed, out of memory, or a crash)"
    if isinstance(error, exceptions.RayTaskError):
        return f"the node could not carry it out: {_last_line(str(error))}"
    return str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {_first_line(str(error))}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:400]


def _last_line(text: str) -> str:
    return _first_line("\n".join(reversed(text.splitlines())))


async def main(number: int) -> None:
    """Speak over that descriptor until its other end is closed."""
    connection = socket.socket(fileno=number)
    connection.set_inheritable(False)
    reader, writer = await asyncio.open_connection(sock=connection)
    helper = asyncio.ensure_future(Helper(reader, writer).serve())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, helper.cancel)
    with contextlib.suppress(EOFError, asyncio.IncompleteReadError, asyncio.CancelledError):
        await helper
    await asyncio.to_thread(ray.shutdown)
    with contextlib.suppress(OSError):
        await writer.drain()
        writer.close()


if __name__ == "__main__":
    folder = sys.argv[2]
    try:
        asyncio.run(main(int(sys.argv[1])))
    finally:
        ray.shutdown()
        sys.stdout.flush()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)
