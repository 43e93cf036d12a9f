"""What runs where the interactions live. It never sees another client."""
