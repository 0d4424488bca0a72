"""The runs that browser tests look at: of the simulated provider, and one that is multiplied to fifty thousand items."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass

from flowllm.storage.sql.rows import content_hash
from tests.support.project import Project

MANY = 50_000
HOSTILE = (
    "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'><svg onload=alert(3)>{{7*7}} javascript:alert(4)"
)
TAG = "<b onclick=alert(5)>tag</b>"
FLOW = {
    "name": "reviews",
    "defaults": {"provider": "simulated", "model": "gpt-4o-mini", "max_tokens": 60},
    "steps": {
        "headline": {"prompt": "Write one headline about tea.", "system": "Be short."},
        "topics": {
            "prompt": "List topics for {{ headline }}",
            "output": {
                "type": "object",
                "properties": {"topics": {"type": "array", "items": {"type": "string"}}},
                "required": ["topics"],
            },
        },
        "variants": {
            "foreach": {"matrix": {"tone": ["kind", "stern"], "topic": ["tea", "coffee", "milk"]}},
            "prompt": "Write a {{ item.tone }} line on {{ item.topic }}, after {{ headline }}",
        },
        "checked": {
            "foreach": [1, 2, 3, 4, 5, 6, 7, 8],
            "python": "./check.py:check",
            "with": {"number": "{{ item }}"},
            "on_error": "continue",
            "max_failed": 8,
        },
    },
}
CHECK = """
def check(number):
    if number % 3 == 0:
        raise ValueError(f"{number} is no good")
    return {"number": number, "vector": [0.25] * 64, "text": "word " * 9000 if number == 8 else "short"}
"""
EVIL = {
    "name": "evil",
    "description": HOSTILE,
    "defaults": {"provider": "simulated", "model": "<img src=x onerror=alert(9)>", "max_tokens": 20},
    "inputs": {"text": {"type": "string", "default": HOSTILE}},
    "steps": {
        "echo": {"value": {"said": HOSTILE, HOSTILE: "{{ inputs.text }}"}},
        "ask": {"prompt": "{{ inputs.text }}", "system": HOSTILE},
        "each": {
            "foreach": {"matrix": {"a": [HOSTILE, "plain"], "b": [HOSTILE, "x"]}},
            "python": "./evil.py:fail",
            "with": {"text": "{{ item.a }}"},
            "on_error": "continue",
            "max_failed": 4,
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Ids of runs, by what they are for."""

    reviews: str
    again: str
    """The same with another prompt."""
    many: str
    evil: str


def made(project: Project) -> Runs:
    """All of them."""
    project.write("check.py", CHECK)
    project.write("evil.py", f"def fail(text):\n    raise ValueError({HOSTILE!r} + text)\n")
    project.write("reviews.yaml", FLOW)
    project.write("evil.yaml", EVIL)
    project.write("many.yaml", _many())
    ids = {}
    for name in ("reviews", "many", "evil"):
        tags = ["--tag", TAG] if name == "evil" else []
        outcome = project.run("run", f"{name}.yaml", "--json", *tags)
        assert outcome.out, outcome.said
        ids[name] = json.loads(outcome.out)["run_id"]
    project.write(
        "reviews.yaml", {**FLOW, "steps": {**FLOW["steps"], "headline": {"prompt": "Write a headline about coffee."}}}
    )
    ids["again"] = json.loads(project.run("run", "reviews.yaml", "--json").out)["run_id"]
    multiply(project, ids["many"], "many", MANY)
    return Runs(**ids)


def _many() -> dict[str, object]:
    return {
        "name": "many",
        "defaults": {"provider": "simulated", "model": "gpt-4o-mini", "max_tokens": 20},
        "steps": {"many": {"foreach": [{"text": "a"}, {"text": "b"}], "prompt": "Rate {{ item.text }}"}},
    }


def multiply(project: Project, run: str, step: str, count: int) -> None:
    """Let a run's foreach have that many items, like its first one; one in a thousand failed."""
    with closing(sqlite3.connect(project.database)) as connection, connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(nodes)")]
        given = {
            "node_id": f"'{step}[' || n || ']'",
            "place": "n",
            "seq": "n + 10",
            "change_no": "n + 10",
            "status": "iif(n % 1000 = 500, 'failed', status)",
            "error": """iif(n % 1000 = 500, '{"type": "Rejected", "message": "no good"}', NULL)""",
            "output": "iif(n % 1000 = 500, 'null', output)",
            "content_hash": "iif(n % 1000 = 500, :failed, content_hash)",
            "row_hash": "NULL",
        }
        (key,) = connection.execute(
            "SELECT key FROM nodes WHERE run_id = ? AND node_id = ?", (run, f"{step}[0]")
        ).fetchone()
        columns = ", ".join(given.get(name, name) for name in names)
        connection.execute("DELETE FROM nodes WHERE run_id = ? AND node_id = ?", (run, f"{step}[1]"))
        connection.execute(
            f"INSERT INTO nodes ({', '.join(names)}) WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM "
            f"numbers WHERE n < :last) SELECT {columns} FROM numbers, nodes WHERE run_id = :run AND node_id = :first",
            {"last": count - 1, "run": run, "first": f"{step}[0]", "failed": content_hash("failed", key, "null")},
        )
        counts = json.dumps({"total": count, "succeeded": count - count // 1000, "failed": count // 1000})
        connection.execute(
            "UPDATE nodes SET counts = ?, row_hash = NULL WHERE run_id = ? AND node_id = ?", (counts, run, step)
        )
        connection.execute("UPDATE totals SET changes = ? WHERE run_id = ?", (count + 10, run))
