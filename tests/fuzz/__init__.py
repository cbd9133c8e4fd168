"""Hostile and odd inputs by the hundred, each with an oracle: what is right, or one short message on what is not.

A few of each kind run by default, and many under ``slow``.
"""
