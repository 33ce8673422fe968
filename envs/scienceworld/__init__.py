"""ScienceWorld: science experiments in text, played by its own Java engine."""
