"""What `gridsync.embedded` is made of."""
