"""What certification draws have shown: how they are gathered and shared, pure mathematics, and the
record from which every answer follows.
"""
