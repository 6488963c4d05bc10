"""`python -m internvl_trainer.curation`: `internvl data` where only the trainer is installed, as in its image."""

from internvl_trainer.curation.cli import data

if __name__ == "__main__":
    data(prog_name="python -m internvl_trainer.curation")
