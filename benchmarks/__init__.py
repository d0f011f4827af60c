"""Benchmarks: figures with their limits. ``python -m benchmarks`` runs them, ``python -m benchmarks NAME`` one of them.

One file per benchmark; its ``run(arguments)`` returns the figures, and ``BY_DEFAULT = False`` keeps it out of the run
of all. Files whose name starts with an underscore are shared.
"""
