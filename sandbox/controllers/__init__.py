"""The controllers of a Sovereign, with the behaviours that bite (facts: api-facts, sections 1 and 7)."""
