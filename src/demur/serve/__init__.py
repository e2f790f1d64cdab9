"""Serving: an OpenAI-compatible server and proxy in which every request carries its own policy."""
