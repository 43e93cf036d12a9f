"""What server and client share: data, model, privacy arithmetic and wire format. It never talks to the network."""
