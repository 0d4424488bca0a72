"""flowllm ui: the local web page."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import webbrowser
from ipaddress import ip_address

import click

from flowllm.app.flowllm import FlowLLM
from flowllm.cli.options import Location, location_options
from flowllm.cli.output import results, say
from flowllm.core.clock import SystemClock
from flowllm.core.errors import UsageError
from flowllm.core.tasks import in_thread, run_loop, start_task
from flowllm.ui.actions import Actions
from flowllm.ui.database import Database
from flowllm.ui.security import Access
from flowllm.ui.server import create_app, serve

PORT = 7717
"""Taken if it is free, so that the page has the same address most of the time."""
_TOKEN = "FLOWLLM_UI_TOKEN"  # noqa: S105 - a name
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help=f"The port  [default: {PORT}, or any that is free]")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address of this machine: a loopback one.")
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
@click.option("--allow-actions", is_flag=True, help="Let the page resume and stop runs.")
@location_options
def ui(*, port: int | None, host: str, no_open: bool, allow_actions: bool, location: Location) -> None:
    """Show runs on a local web page, while they go on and afterwards.

    It reads the database and changes nothing, unless --allow-actions. The address that is printed holds a token: it is
    for you alone. Ctrl-C ends it.
    """
    app = FlowLLM(database=location.db, config=location.config)
    database = Database(app.database, clock=SystemClock())
    environ = {name: value for name, value in os.environ.items() if name != _TOKEN}
    actions = Actions(database.home, database.url, config=location.config, environ=environ) if allow_actions else None
    run_loop(_serve(_listener(host, port), app, database, actions, opens=not no_open))


async def _serve(
    listener: socket.socket, app: FlowLLM, database: Database, actions: Actions | None, *, opens: bool
) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    host, port = listener.getsockname()[:2]
    access = Access(port, host=host, token=os.environ.get(_TOKEN) or None)
    page = create_app(database, access, clock=SystemClock(), workflow_of=app.workflow_of, actions=actions)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/?token="
    results().line(f"{address}{access.token}")
    sys.stdout.flush()
    say("  for you alone; Ctrl-C ends it")
    opening = None
    if opens and _has_display():
        opening = start_task(in_thread(lambda: webbrowser.open(f"{address}{access.once}")))  # which may take its time
    await serve(page, listener, stop=stop.wait)
    if opening is not None:
        opening.cancel()


def _listener(host: str, port: int | None) -> socket.socket:
    """The socket. Raises UsageError for an address that others reach, and for a port that is taken."""
    try:
        loopback = ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        loopback = None
    if loopback is None or not loopback.is_loopback:
        raise UsageError(
            f"--host takes an address that only this machine reaches, such as 127.0.0.1, not {host!r}",
            hint=f"from another machine: ssh -L {port or PORT}:127.0.0.1:{port or PORT} HOST, and open the printed address there",
        )
    family = socket.AF_INET6 if loopback.version == 6 else socket.AF_INET  # noqa: PLR2004 - the version of IP
    for wanted in (port,) if port is not None else (PORT, 0):
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((str(loopback), wanted))
            listener.listen()  # so that who opens the address at once waits, and is not refused
        except OSError as error:
            listener.close()
            failure = error
        else:
            return listener
    raise UsageError(
        f"port {port} of {loopback} cannot be used: {failure.strerror}", hint="name another one, or leave --port out"
    )


def _has_display() -> bool:
    if sys.platform in {"darwin", "win32", "cygwin"}:
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
