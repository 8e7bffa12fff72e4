"""Sign in with providers outside: OpenID Connect, and OAuth as GitHub has it."""
