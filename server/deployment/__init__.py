"""The operator's side of a deployed federation: certificates, Flower's processes, a proxy, and commands."""
