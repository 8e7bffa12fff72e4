"""Chat completions: parse a request, choose an engine, stream its output and charge for it."""
