"""`python -m hack.cluster`."""

from hack.cluster.cli import main

if __name__ == "__main__":
    main(prog_name="python -m hack.cluster")
