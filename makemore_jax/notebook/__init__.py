"""For notebooks: set up a runtime, and show figures in cells."""
