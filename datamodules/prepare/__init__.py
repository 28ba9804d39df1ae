"""From raw annotations and images to shards, and the toy world that writes raw annotations."""
