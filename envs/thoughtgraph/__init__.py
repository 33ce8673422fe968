"""ThoughtGraph: problems that are taken apart, solved in pieces and put together, as a graph that the agent grows."""
