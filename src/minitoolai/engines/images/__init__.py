"""Image engines: upstreams, web UIs, the embedded model and their child process."""
