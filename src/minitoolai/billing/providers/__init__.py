"""Payment providers behind one protocol: Stripe, EPay-style signed redirects, and installed packages."""
