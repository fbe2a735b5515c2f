"""``laconic push``: a finished run on the Hugging Face Hub, with a model card made of what was measured.

    run folder ──> trained_run ──> evidence ──> package (files, card) ──> upload: one commit

Everything up to the upload works without a network and without a token; ``--dry-run`` stops there.
"""
