"""Asking a trained model: greedy answers and the likelihood of given ones, in one process."""
