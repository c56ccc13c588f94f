"""What tests of gridsync, and of programs that use it, are made of.

=============================  ==========================================================================
`gridsync.testing.plugin`      pytest fixtures: a private server, a `Grid` and an `AsyncGrid` on it
`gridsync.testing.servers`     `RedisServer`: a real server that can be frozen, killed and restarted
`gridsync.testing.sentinels`   `SentinelSet`: a primary, replicas and sentinels, and failovers on demand
`gridsync.testing.cluster`     `RedisCluster`: three primaries and replicas, resharded and failed over at will
`gridsync.testing.proxy`       `FaultProxy`: connections that break at the very request a test names
`gridsync.testing.sim`         `Simulation`: many processes, a bad network and virtual time, from a seed
`gridsync.testing.checkers`    what must hold for the histories of simulations and real runs
`gridsync.testing.recorder`    what threads, tasks and processes of a real run did, in one file
`gridsync.testing.linear`      whether some order of what they did explains all replies
`gridsync.testing.leaks`       keys that would stay for ever
=============================  ==========================================================================

Each is imported by its own name: the simulation needs the extra ``testing``, the servers do not.
"""
