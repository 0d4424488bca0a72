"""What the command `flowllm` calls."""

from __future__ import annotations

from flowllm.cli.process import begin_imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line."""
    begin_imports()
    from flowllm.cli.main import main as command  # noqa: PLC0415 - signals are handled meanwhile
    from flowllm.core.garbage import own_process  # noqa: PLC0415 - the same

    own_process()

    command()
