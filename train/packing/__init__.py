"""What the rows of a group share is trained once: ``docs/packing.md``.

    rows ──> one token trie per group (trie.py) ──> packs within a budget (budget.py), if it pays (choose.py)

``attention.py`` plugs tree attention into transformers, ``refusals.py`` names the models it would be wrong for, and
``self_test.py`` proves it on the model that is loaded.
"""
