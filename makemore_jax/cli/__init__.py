"""The programs' shared parts: flags, error messages, progress, Ctrl-C, the compilation cache."""
