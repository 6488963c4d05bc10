"""What can go wrong in the demo, each as one line that names the remedy."""


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why and what to do."""
