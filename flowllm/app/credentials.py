"""What of the environment belongs to providers: their keys and passwords, and the variables that hold them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from flowllm.core.redact import SECRET_NAME, is_placeholder, looks_secret, passwords_of
from flowllm.language.workflow import ProviderSettings

VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_CERTAIN: Final = 8
"""Characters from which on a value that stands in another variable too is no coincidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Of all providers that a run may use, also of those that it has not used yet."""

    values: frozenset[str]
    """To be masked."""
    variables: frozenset[str]
    """Of the environment; what a step starts does not see them unless the workflow asks for them."""


def find_credentials(providers: Iterable[ProviderSettings], environ: Mapping[str, str]) -> Credentials:
    """The credentials that these providers take from the environment, or have in their base URLs; and proxies' passwords."""
    names, urls = {"OPENAI_API_KEY"}, [environ.get("OPENAI_BASE_URL", "")]
    urls += [text for name, text in environ.items() if name.lower().endswith("_proxy")]
    for settings in providers:
        names |= {settings.api_key_env or "OPENAI_API_KEY", *_of_headers(settings.headers, environ)}
        urls.append(settings.base_url or "")
    values = {environ.get(name, "").strip() for name in names}
    for url in urls:
        values |= set(passwords_of(url))
    values = {value for value in values if not is_placeholder(value)}
    certain = [value for value in values if len(value) >= _CERTAIN]
    names |= {name for name, text in environ.items() if any(value in text for value in certain)}
    return Credentials(values=frozenset(values), variables=frozenset(names))


def _of_headers(headers: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    for header, text in headers.items():
        for name in VARIABLE.findall(text):
            value = environ.get(name, "")
            if SECRET_NAME.search(header) or SECRET_NAME.search(name) or looks_secret(value):
                yield name
