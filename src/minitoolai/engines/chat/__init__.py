"""Chat engines: OpenAI-compatible upstreams, embedded llama.cpp and a deterministic fake."""
