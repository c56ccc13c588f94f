"""gridsync beside its peers: one server, one process set-up, alternating runs, medians.

``python -m benchmarks`` runs every row; ``--rows a,b`` runs some.  A row is a subject with our way of doing it and
the peers' ways; `harness` says how a figure is taken.  The rows are in `commands`, `growth`, `faults`, `locks`,
`contention`, `limits` and `events`.
"""
