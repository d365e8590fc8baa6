"""Paths from outside: where they may lie, and opening what lies there."""
