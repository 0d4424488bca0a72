"""`python -m flowllm` is the command line."""

from __future__ import annotations

from flowllm.cli.start import main

if __name__ == "__main__":
    main()
