"""One run from its plan to its summary: the only room that knows both the containers and the network."""
