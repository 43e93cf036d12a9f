"""Recommendations over HTTP from a bundle: the service's parts, and nothing that trains."""
