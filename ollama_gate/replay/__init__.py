"""Workloads and traces run through the discrete-event world, and what came of it in figures.

The command `replay` and the benchmark are two readers of the same figures. Nothing here prints.
"""
