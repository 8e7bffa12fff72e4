"""Speech engines: voices in child processes and OpenAI-compatible upstreams."""
