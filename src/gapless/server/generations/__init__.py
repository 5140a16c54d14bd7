"""Who starts, serves, is replaced or called back: decided, all pure."""
