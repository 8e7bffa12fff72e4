"""The other forms of a chat request: completions, embeddings and responses."""
