"""Environments in the formats of others, and in ours: pure functions from text to definitions and back.

One module for each format. What a format says and a definition cannot is told in notes, never dropped in
silence; what cannot be read is an `Invalid` with a pointer, and the line where the format has lines.
"""
