"""An HTTP/1.1 client with a connection pool and an SSRF-safe variant. Knows nothing of AI."""
