"""How fast the simulator is. Enter at ``python -m benchmarks`` (``make bench``), which measures the promised figures.

A benchmark is a function that answers :class:`benchmarks.figure.Figure` rows; :data:`benchmarks.__main__.BENCHMARKS`
names them. Component benchmarks (``bench_*.py``) look at one layer and print tables of their own; they are run by name.
"""
