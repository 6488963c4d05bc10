"""The data plane: runs one attempt of one stage of an InternVL-2.5 training."""
