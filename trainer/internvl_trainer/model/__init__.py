"""InternViT, projector and language model, built of megatron.core modules."""
