"""A guest kernel for the tests: User-Mode Linux with the host's files, for what the host's own kernel lacks (netem)."""
