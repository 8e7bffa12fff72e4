"""Pages about money beside the balance: invoices, automatic top-ups and notices."""
