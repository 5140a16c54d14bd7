"""The admin socket, and what asks it."""
