"""The process that starts workers, hears them, and tells its keeper what a successor needs."""
