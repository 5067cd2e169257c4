"""Parts of the proofs: live pulls on every node, canaries, the block, the clock that counts."""
