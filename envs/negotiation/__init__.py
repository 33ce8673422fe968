"""Negotiation: two private utilities, one deal; scripted opponents, or both seats played by agents."""
