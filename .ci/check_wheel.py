"""Looks into a built wheel: it holds exactly what git has of the package and its migrations.

python .ci/check_wheel.py dist/flowllm-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = ("flowllm/py.typed", "flowllm/_migrations/env.py")
STRAY = re.compile(r"(^|/)(__pycache__|tests|\.env|\.git\w*|\.DS_Store)(/|$)|\.(pyc|pyo|db|log)$")


def tracked(folder: str) -> set[str]:
    """The files that git has below a folder."""
    listed = subprocess.run(["git", "ls-files", "-z", "--", folder], cwd=ROOT, capture_output=True, check=True)
    return {name for name in listed.stdout.decode().split("\0") if name}


def problems(wheel: Path) -> list[str]:
    """What is wrong with a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    packed = {name for name in names if not re.match(r"flowllm-[^/]+\.dist-info/", name)}
    wanted = tracked("flowllm") | {f"flowllm/_{name}" for name in tracked("migrations")}
    found = [f"{name} is missing" for name in NEEDED if name not in names]
    found += [f"{name} is stray" for name in sorted(names) if STRAY.search(name)]
    found += [f"{name} is in the wheel, and not in git" for name in sorted(packed - wanted)]
    found += [f"{name} is in git, and not in the wheel" for name in sorted(wanted - packed)]
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        found.append("the licence is missing")
    return found


def main() -> int:
    """Check the wheel that is named on the command line."""
    wheel = Path(sys.argv[1])
    found = problems(wheel)
    for problem in found:
        print(f"{wheel.name}: {problem}", file=sys.stderr)
    if not found:
        print(f"{wheel.name}: as it should be")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
