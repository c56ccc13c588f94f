"""``python -m gridsync.cli`` is ``gridsync``."""

from gridsync.cli import main

main()
