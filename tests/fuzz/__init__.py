"""Hostile files for every reader: `make fuzz`, and SECURITY.md for what it found.

An input is made from valid files by mutations that know their structure, and read in a child with
limits: a crash of a library, a hang or a flood of memory costs the child, and the input is kept.
"""
