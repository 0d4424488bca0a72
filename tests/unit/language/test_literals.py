"""Secrets that are written out in files are found, kept out of what a run keeps, and found again on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowllm.core.errors import InvalidWorkflow
from flowllm.language.literals import KEPT_OUT, kept, literals_of, missing, restored
from flowllm.language.parse import load_workflow
from flowllm.language.project import load_project

JWT = "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl"
PEM = "-----BEGIN RSA PRIVATE KEY-----\n  MIIEvQIBADANBgkqhkiG9w0\n  -----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('headers: {Authorization: "Bearer abc-1"}', ["abc-1"]),
        ("headers: {X-Auth: simple}", ["simple"]),
        ('headers: {Cookie: "sid=abcdefgh1; theme=dark"}', ["abcdefgh1"]),
        ("headers:\n  - 'Authorization: Bearer abc-1'", ["abc-1"]),
        ("headers: {Authorization: Basic bWU6cEBzcw==}", ["bWU6cEBzcw=="]),
        ("headers:\n  Authorization: >-\n    Bearer\n    abc-1", ["abc-1"]),
        ("x: &k abc-1\nheaders: {X-Api-Key: *k}", ["abc-1"]),
        ("env: {DB_PASSWORD: 123456, PORT: 5432}", ["123456"]),
        ("query: {api_key: word}", ["word"]),
        ("with: {password: pass-1}", ["pass-1"]),
        ("inputs: {api_key: {default: word}}", ["word"]),
        ("providers: {w: {key: word}}", ["word"]),
        ("providers: {w: {api_key_env: AbCd1234efgh5678}}", ["AbCd1234efgh5678"]),
        ("secrets: {SHOP: shop}", ["shop"]),
        ("base_url: https://h/v1?key=word&x=1", ["word"]),
        ("base_url: https://me:pa/ss@h/v1", ["pa/ss"]),
        ("database: postgresql://me:p@ss@h/db", ["p@ss"]),
        ("url: https://0123456789abcdef:@h/", ["0123456789abcdef"]),
        ("shell: 'curl -u me:word -H \"Authorization: Bearer abcdefgh-12345\" h'", ["word", "abcdefgh-12345"]),
        ("# was sk-proj-0123456789abcdef", ["sk-proj-0123456789abcdef"]),
        (f"prompt: ask {JWT} now", [JWT]),
        (f"x: |\n  {PEM}", [PEM]),
        ("api_key: 'never closed sk-proj-0123456789abcdef", ["sk-proj-0123456789abcdef"]),
    ],
)
def test_what_is_a_secret(text: str, values: list[str]) -> None:
    assert [one.value for one in literals_of(text, "flowllm.yaml")] == values
    (masked,) = kept({"flowllm.yaml": text}).values()
    assert KEPT_OUT in masked
    assert not [value for value in values if value in masked]


@pytest.mark.parametrize(
    "text",
    [
        "headers: {Authorization: 'Bearer ${TOKEN}', X-Api-Key: '{{ secrets.KEY }}', Accept: text/html}",
        "env: {TOKEN: '{{ secrets.TOKEN }}', MAX_TOKENS: '500', KEYBOARD: us}",
        "providers: {w: {type: openai, api_key_env: MY_KEY_2024_PROD, max_tokens_field: max_tokens}}",
        "secrets: [MY_TOKEN_2024_PROD, A_B]",
        "limits: {tokens_per_minute: 100000000000}\nbudget: {tokens: 2000000}",
        "defaults: {max_tokens: 100, retry: {max_attempts: 5}}",
        "steps: {keywords: {prompt: 'Name the key words', needs: [secret_word]}}",
        "output: {properties: {password: {type: string, description: a password}}, required: [password]}",
        "inputs: {token: {description: a token of thanks, type: string}}",
        "base_url: http://localhost:8000/v1/@me?api-version=2024-10-21",
        "headers: {Authorization: your-key-here, X-Api-Key: <key>, X-Token: changeme, X-Auth: '...'}",
        f"headers: {{Authorization: Bearer {KEPT_OUT}}}",
    ],
)
def test_what_is_none(text: str) -> None:
    assert literals_of(text, "flowllm.yaml") == ()


def test_programs_and_prompts_are_looked_through_by_form() -> None:
    found = literals_of('key = compute(x)\nAPI_KEY = "abcdefgh12345"\ntoken = os.environ["TOKEN_1"]\n', "a.py")
    assert [(one.where.line, one.where.column, one.value) for one in found] == [(2, 12, "abcdefgh12345")]


PROJECT = """\
providers:
  one: {type: openai, base_url: "https://h/v1", headers: {Authorization: "Bearer first-key-1"}}
  two:
    headers: {X-Api-Key: word}
  three:
    headers: {X-Api-Key: other}
"""


def test_a_word_is_kept_out_where_it_stands_alone() -> None:
    text = "steps: {prompt: {prompt: 'a prompt'}}\nheaders: {X-Api-Key: prompt}\r\nx: 1\n"
    assert kept({"w.yaml": text})["w.yaml"] == text.replace("Key: prompt", f"Key: {KEPT_OUT}")


def test_secrets_are_found_again_on_disk() -> None:
    texts = {"/flowllm.yaml": PROJECT, "/x.py": "print('first-key-1')\n", "/w.yaml": "steps: {}\n"}
    masked = kept(texts)
    assert missing(masked) == ["/flowllm.yaml:2", "/flowllm.yaml:4", "/flowllm.yaml:6", "/x.py:1"]
    assert restored(masked, texts) == texts
    assert restored(masked, {}) == masked
    rotated = {**texts, "/flowllm.yaml": PROJECT.replace("first-key-1", "second-key-2")}
    assert restored(masked, rotated)["/flowllm.yaml"] == rotated["/flowllm.yaml"]


def test_secrets_are_found_again_in_files_that_were_edited() -> None:
    masked = kept({"/flowllm.yaml": PROJECT})
    edited = "x-new: 1\n" + PROJECT.replace("https://h/v1", "https://other/v1")
    whole = restored(masked, {"/flowllm.yaml": edited})
    assert whole["/flowllm.yaml"].splitlines()[2:] == PROJECT.splitlines()[2:], "equal lines in their order"
    assert missing(whole) == ["/flowllm.yaml:2"], "that line is another one now"
    fewer = PROJECT.partition("  three")[0] + "x: 1\n"
    assert "X-Api-Key: word" in restored(masked, {"/flowllm.yaml": fewer})["/flowllm.yaml"]


FLOW = """\
steps:
  a:
    http: {url: "https://h/x?token=canary-1", headers: {X-Api-Key: canary-2}}
"""


def test_they_are_reported_as_warnings_without_their_values(tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    (tmp_path / "flowllm.yaml").write_text(
        PROJECT.replace("three:", "three:\n    type: openai").replace("two:", "two:\n    type: openai")
    )
    workflow = load_workflow(tmp_path / "flow.yaml", project=load_project(tmp_path / "flowllm.yaml"))
    told = [str(warning) for warning in workflow.warnings]
    assert [one.partition(": warning")[0] for one in told] == [
        f"{tmp_path}/{place}"
        for place in ("flow.yaml:3:17", "flow.yaml:3:68", "flowllm.yaml:2:74", "flowllm.yaml:5:26", "flowllm.yaml:8:26")
    ]
    assert "headers.Authorization" in told[2]
    assert "${NAME}" in told[2]
    assert not [one for one in told if "canary" in one or "first-key" in one]
    assert {"canary-1", "canary-2", "first-key-1", "word", "other"} <= set(workflow.literals)
    assert "literals" not in repr(workflow)
    assert not [text for text in workflow.snapshot.values() if "canary" in text or "first-key" in text]


@pytest.mark.parametrize(
    "provider",
    [
        'base_url: "https://me:canary-pass@h/v1"',
        'base_url: "https://me:canary pass@h/v1"',
        'base_url: "ftp://h/v1?api_key=canarypass"',
        "api_key: canaryword",
        "key: canary-1",
        "api_key_env: sk-canary-1234567890",
        'headers: "Authorization: Bearer canary-1"',
        "headers: {X-Auth: canary-1}, nonsense: 1",
        'api_key: "canary-991234567',
    ],
)
def test_errors_of_a_file_do_not_tell_what_it_has_written_out(provider: str, tmp_path: Path) -> None:
    (tmp_path / "flowllm.yaml").write_text(f"providers:\n  w: {{type: openai, {provider}}}\n")
    with pytest.raises(InvalidWorkflow) as invalid:
        load_project(tmp_path / "flowllm.yaml")
    assert "canary" not in str(invalid.value)
    assert "canary" not in repr(invalid.value.problems)
