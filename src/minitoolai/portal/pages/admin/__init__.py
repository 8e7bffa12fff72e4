"""What admins change: accounts, charges, groups, coupons."""
