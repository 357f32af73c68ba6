"""End-to-end tests: real processes, sockets and terminals."""
