"""Training one stage: the loop, its schedule, its feed of packs and its reports."""
