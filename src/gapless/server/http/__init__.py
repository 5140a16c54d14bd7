"""What HTTP/1.1 and HTTP/2 have in common."""
