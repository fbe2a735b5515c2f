"""What the mathematical verifiers share: finding an answer in a text, and comparing it with the gold."""
