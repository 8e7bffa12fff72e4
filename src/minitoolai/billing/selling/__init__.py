"""What customers buy: plans, coupons, invoices, automatic top-ups, and notices."""
