"""Invoices and credit notes as pages, PDF and CSV."""
