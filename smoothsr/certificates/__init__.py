"""What certification draws have shown: pure mathematics, and the record from which every answer
follows.
"""
