"""What a merge did: scores, barriers, singular vectors, heads, one subject under every arm."""
