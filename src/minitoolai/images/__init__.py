"""Image jobs: submit, queue, run, store, deliver and report them by webhook."""
