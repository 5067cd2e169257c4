"""The front door: HTTP, live events, and who may ask. It publishes and projects; the workers decide."""
