"""The training engine: the protocol that the loop speaks, and its implementation on megatron.core."""
