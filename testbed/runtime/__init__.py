"""Where nodes live: Docker's containers and images, and mpirun on this machine. Knows nothing of links."""
