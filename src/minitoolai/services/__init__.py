"""The domain, in product words: what is sold, what it costs, and that it is charged exactly once."""
