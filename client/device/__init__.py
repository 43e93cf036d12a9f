"""A device of a deployed federation: its folder, its pinned constants, its launcher and its commands."""
