"""What passes between a master and a worker: words, listeners, state."""
