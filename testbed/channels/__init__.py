"""How vectors travel: datagrams that may vanish, and MPI's collectives that may not. One failure model each."""
