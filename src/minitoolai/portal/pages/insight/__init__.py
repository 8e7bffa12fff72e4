"""Admin pages that show: dashboards, the log of requests, engines, one account, and the site as a customer sees it."""
