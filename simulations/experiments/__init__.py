"""Named experiments: TOML files that hold overrides of the defaults only."""
