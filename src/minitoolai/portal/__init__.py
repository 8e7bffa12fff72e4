"""The HTML edge, for people with browsers: server-rendered pages in seven languages. See docs/portal.md."""
