"""Guides made by llguidance: a JSON schema, an expression, a grammar or a list of texts becomes a mask of tokens.

    maker.py         GuideMaker: compiles, caches, and hands out guides; `check` before a request goes to the engine
    matching.py      Guide: one output on its way, over llguidance's matcher
    vocabulary.py    what the tokens of a model mean, as llguidance wants to know it
    grammar.py       a GuideSpec as the one text that llguidance compiles; refuses what it would misread
    schema.py        a JSON schema, read before it is compiled: keywords that would be ignored, schemas without an end
    trial.py         compiles what a stranger sent in a process that may die of it
    trial_worker.py  that process

What can be asked, and what is refused: docs/structured-output.md. Why llguidance: docs/adr/0003-llguidance.md.
"""
