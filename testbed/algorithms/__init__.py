"""The algorithms, one coroutine per file, each reading like its paper. They know a `Node` and nothing else."""
