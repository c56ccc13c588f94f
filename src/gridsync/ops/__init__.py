"""Running a server for real: what the operator's commands write, ask and change.

Nothing here is part of the Python interface: the commands of `gridsync` are.
"""
