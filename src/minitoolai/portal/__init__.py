"""The HTML pages for people with browsers, rendered on the server in seven languages. See docs/portal.md."""
