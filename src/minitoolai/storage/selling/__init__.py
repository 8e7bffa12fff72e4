"""Rows of invoices, automatic top-ups and notices to customers."""
