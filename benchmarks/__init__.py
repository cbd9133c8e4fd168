"""What this library costs, measured beside its rivals in one run.

``python -m benchmarks`` lists all benchmarks, ``python -m benchmarks NAME`` (or ``python -m benchmarks.NAME``) runs
one, ``python -m benchmarks all`` all of them, with a table of their goals at the end. ``command.py`` says what makes a
module of this folder a benchmark, ``README.md`` how to read the tables; it holds those of the last measurement.
"""
