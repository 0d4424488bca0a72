"""python -m tests.benchmarks: the speed of fan-out."""

from tests.benchmarks.fanout import main

main()
