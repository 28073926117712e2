"""Hostile checkpoint files, made when they are needed, and proof that each is refused: `python -m
tests.attacks`.
"""
