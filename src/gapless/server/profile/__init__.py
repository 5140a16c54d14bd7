"""What a worker finds out about itself: where its time goes, what its memory holds, what waits for what."""
