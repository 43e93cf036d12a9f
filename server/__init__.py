"""What runs on the coordinating server. It never sees a raw training interaction."""
