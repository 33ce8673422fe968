"""TextArena: the single-player games of the package textarena that load, can be won and repeat by their seed."""
