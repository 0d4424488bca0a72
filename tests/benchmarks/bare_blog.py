"""The graph of workflows/blog.yaml as one would write it without flowllm: no limits, no retries, nothing kept."""

from __future__ import annotations

import asyncio
import json

from openai import AsyncOpenAI

TOPIC = "The Evolution of Generative AI in Creative Writing"
FORM = {
    "type": "json_schema",
    "json_schema": {
        "name": "keywords",
        "schema": {
            "type": "object",
            "properties": {"keywords": {"type": "array", "items": {"type": "string"}}},
            "required": ["keywords"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


async def blog(client: AsyncOpenAI) -> dict[str, str]:
    """Four calls, the longest path of which is three."""

    async def ask(prompt: str, **how: object) -> str:
        messages = [{"role": "user", "content": prompt}]
        answer = await client.chat.completions.create(model="gpt-4o-mini", max_tokens=1000, messages=messages, **how)
        return answer.choices[0].message.content

    async def body() -> tuple[str, str]:
        headline = await ask(f"Write one compelling headline for a blog post about {TOPIC}.")
        intro = await ask(f'Write an engaging friendly introduction for a post titled "{headline}".')
        return headline, await ask(f'Outline the post "{headline}" in five sections. It opens like this:\n{intro}')

    keywords = ask(f"List ten SEO keywords for a blog post about {TOPIC}.", response_format=FORM)
    (headline, outline), listed = await asyncio.gather(body(), keywords)
    return {"headline": headline, "outline": outline, "keywords": json.loads(listed)["keywords"]}


async def main() -> None:
    async with AsyncOpenAI(max_retries=0) as client:
        print(json.dumps(await blog(client)))


if __name__ == "__main__":
    asyncio.run(main())
