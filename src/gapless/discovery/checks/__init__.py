"""How the registry comes to the status of a check: it asks at intervals, waits for heartbeats, or follows another."""
