"""A model that decides by itself what to look up before it answers."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

RULES = """You answer questions about tea from notes alone. Each time you are asked, choose one action:
look_up, with the name of a note as text, or answer, with an empty text."""
ACTION = {
    "type": "object",
    "properties": {"action": {"type": "string", "enum": ["look_up", "answer"]}, "text": {"type": "string"}},
    "required": ["action", "text"],
    "additionalProperties": False,
}


async def answer(
    question: str, most_turns: int, notes: dict[str, str], ask: Callable[..., Awaitable[Any]]
) -> dict[str, Any]:
    """The answer, and what was looked up for it."""
    looked_up = []
    names = ", ".join(notes)
    messages = [{"role": "system", "content": f"{RULES}\nThe notes: {names}."}, {"role": "user", "content": question}]
    for _ in range(most_turns):
        step = await ask(messages=messages, output=ACTION)
        if step["action"] == "answer":
            break
        looked_up.append(step["text"])
        found = notes.get(step["text"].lower(), f"There is no such note; there are: {names}.")
        messages += [{"role": "assistant", "content": json.dumps(step)}, {"role": "user", "content": found}]
    text = await ask(messages=[*messages, {"role": "user", "content": "Now answer in two sentences."}])
    return {"text": text, "looked_up": looked_up}
