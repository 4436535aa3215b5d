"""Train on random crops of one long text, and sample text of any length."""
