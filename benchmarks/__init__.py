"""What this library costs, measured beside its rivals in one run: ``python -m benchmarks.<name>`` prints a table.

- ``step_time``: one training step, beside raw PyTorch and plain Lightning.

``README.md`` in this folder says how to read the tables and holds those of the last measurement.
"""
