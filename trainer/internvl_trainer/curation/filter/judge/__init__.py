"""A language model as judge: prompts, answers, the journal of scores, and the endpoint that is asked."""
