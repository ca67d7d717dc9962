"""Outputs of a network under noise, tile by tile, and their statistics; knows nothing of
certificates.
"""
