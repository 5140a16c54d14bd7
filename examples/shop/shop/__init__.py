"""A small shop of three services: orders asks inventory for the goods and payment for the money."""
