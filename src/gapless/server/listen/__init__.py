"""Opening listeners, and accepting from them."""
