"""What all HTTP endpoints share: bodies, errors, authentication, streaming and the server itself."""
