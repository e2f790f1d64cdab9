"""What a model holds at named positions: residual stream, heads and MLP outputs, recorded in one forward pass.

Everything is keyed by residual index l in 0..L: h^l is the input of block l, h^0 the embedding output (scaled, where
a family scales it), and h^L the output of the last block before the final norm.
"""
