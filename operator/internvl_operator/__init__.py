"""The control plane: turns InternVLTraining objects into chained training jobs."""
