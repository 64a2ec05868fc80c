"""The front side of a producer: what comes in becomes turns, and is answered when the broker has them."""
