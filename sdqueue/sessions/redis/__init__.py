"""What the Redis session store and the Redis lock share: connections, batched scripts, and the joint lease."""
