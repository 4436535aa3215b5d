"""Systems of the lectures that are no trainable model: each module is one of them, whole."""
