"""Questions that need a computation, a persistent Python and one answer."""
