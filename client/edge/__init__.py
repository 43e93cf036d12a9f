"""Recommending on a device without torch: exported vectors and a quantised encoder."""
