"""Benchmark commands. Each prints a table; its docstring explains the measurement."""
