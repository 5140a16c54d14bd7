"""What systemd passes to a server, and is told."""
