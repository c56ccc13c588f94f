"""What tests of gridsync, and of programs that use it, are made of."""
