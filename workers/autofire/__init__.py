"""Auto-fire: off by default. When on, the first operator's login starts a grace period; at its end a cutover begins.

The grace period stands in the journal (`autofire.armed`), so it survives every restart, anyone can see it, and a
cancel while it runs ends it for ever (`autofire.disarmed`).
"""
