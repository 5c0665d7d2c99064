"""Pure decisions of the runner: runs, nodes, the queue, and what an end means."""
