"""Rows of plans, coupons, invoices, automatic top-ups and notices to customers."""
