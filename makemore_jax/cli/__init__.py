"""What the programs share: flags, error messages, progress, Ctrl-C, the compilation cache."""
