"""Federations on one machine: the in-process grid, the run directory and the command line."""
