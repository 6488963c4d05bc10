"""Reading all data of a stage once, as training would, to know before it starts what it would meet."""
