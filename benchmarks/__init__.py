"""Figures of Cloche, each beside its ceiling or peer, measured in the same run (docs/reference/figures.md)."""
