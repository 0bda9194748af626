"""How rollouts and weights travel between processes: shared memory and sockets."""
