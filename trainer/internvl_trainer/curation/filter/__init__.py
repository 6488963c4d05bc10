"""`internvl data filter`: what of a data set is worth training on, as the InternVL-2.5 report (section 4.3) filters it.

Heuristic rules and repetition detection are pure (rules/, repetition.py), scoring by a language model is behind one
small protocol (judge/), and every line of the input ends in one of three files: kept, removed, or up to a person.
"""
