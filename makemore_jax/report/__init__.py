"""What a run has learned: the numbers (collect.py) and the HTML page that shows them (page.py).

The figures on the page, and the command that writes it, are in makemore_jax/plots/.
"""
